"""RunSpec: a run's key, its parent, and the errors for invalid settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from rme import methods
from rme.config import RunSpec, SpecError
from rme.methods._template import Template
from rme.methods.vae import VAE

PAPER = {
    "method": "rme", "order": 5, "dim": 50, "decoder": "conv", "seed": 3, "restarts": 3, "epochs": 2000,
    "batch_size": 128, "learning_rate": 5e-4, "iwae_samples": 100, "precision": "float32", "dataset": "mnist-1",
    "stage_epochs": 2000, "stage_learning_rate": 1e-6, "eps_min": 0.001, "eps_max": 0.1, "kl_max": 500.0,
    "keep": "best", "schema": 1,
}  # fmt: skip


def paper_run() -> RunSpec:
    return RunSpec(method="rme", order=5, dataset="mnist", dim=50, seed=3)


def spec(method: str = "vae", **fields) -> RunSpec:
    return RunSpec(**{"method": method, "dataset": "digits", "dim": 10, **fields})


def rme(**fields) -> RunSpec:
    return spec("rme", **{"order": 2, **fields})


class Linearised(VAE):
    """A method with options, only for the fully connected decoder."""

    name, label = "linearised", "Linearised"
    orders, order_means = (1, 2), "steps"
    decoders = ("fc",)
    options: ClassVar[dict[str, float]] = {"damping": 0.5, "rate": 2.0}


@pytest.fixture
def linearised(monkeypatch) -> type[Linearised]:
    monkeypatch.setitem(methods.registry(), "linearised", Linearised)
    return Linearised


# ---------------------------------------------------------------------- the key
def test_the_key_is_a_hash_of_the_papers_settings() -> None:
    """The settings are written out, because a changed default would change the keys of all finished runs."""
    text = json.dumps(PAPER, sort_keys=True, separators=(",", ":"))
    wanted = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert wanted == "e5df2b7917a6316c"
    assert paper_run().key == wanted


CHANGES = {
    "order": 3, "dataset": "mnist", "dim": 11, "decoder": "fc", "seed": 1, "restarts": 2, "epochs": 7,
    "batch_size": 64, "learning_rate": 1e-4, "iwae_samples": 10, "precision": "float64", "stage_epochs": 9,
    "stage_learning_rate": 1e-5, "eps_min": 0.002, "eps_max": 0.2, "kl_max": 100.0, "keep": "last", "patience": 4,
    "stage_patience": 3, "stage_keep": "last", "finish_epochs": 2,
}  # fmt: skip
OF_A_STAGE = {"stage_epochs", "stage_learning_rate", "stage_keep", "stage_patience", "eps_min", "eps_max", "kl_max"}


def test_the_tests_below_cover_every_field() -> None:
    named_elsewhere = {"method", "options", "variant", "finish_learning_rate"}
    assert set(CHANGES) | named_elsewhere == set(RunSpec.model_fields)


def test_a_variant_is_in_the_label_but_not_in_the_key() -> None:
    plain, named = rme(kl_max=20), rme(kl_max=20, variant="kl 20")
    assert (named.key, named.cell_key) == (plain.key, plain.cell_key)
    assert (plain.method_label, named.method_label) == ("RME(2)", "RME(2), kl 20")
    assert named.run_name == "digits d10 RME(2), kl 20 seed 0"
    assert spec(variant="wide").method_label == "VAE, wide" and named.parent.variant is None


def test_the_finish_learning_rate_is_in_the_key_only_with_finish_epochs() -> None:
    assert spec(finish_learning_rate=1e-5).key == spec().key
    finished = {spec(finish_epochs=2, finish_learning_rate=rate).key for rate in (1e-5, 1e-6)}
    assert len(finished | {spec().key}) == 3
    assert spec(finish_epochs=2).key == spec(finish_epochs=2, finish_learning_rate=1e-6).key


def test_a_training_from_scratch_ends_at_the_finish_learning_rate() -> None:
    run = spec(epochs=5, finish_epochs=2, finish_learning_rate=1e-5, learning_rate=1e-3)
    assert [run.rate_of(epoch) for epoch in range(1, 6)] == [1e-3, 1e-3, 1e-3, 1e-5, 1e-5]
    child = rme(epochs=5, finish_epochs=2, stage_epochs=3)
    assert [child.rate_of(epoch) for epoch in range(1, 4)] == [1e-6] * 3
    assert child.parent.own_finish_epochs == 2, "the finish is the parent VAE's"


@pytest.mark.parametrize(("method", "order", "rate"), [
    ("rme", 2, 1e-6), ("bvi-er1", 2, 1e-6), ("bvi-er2", 2, 1e-6), ("vae-more", None, 1e-6),
    ("iaf", 1, 5e-4), ("hf", 1, 5e-4), ("me", 2, 5e-4),
])  # fmt: skip
def test_the_rate_of_a_stage_is_the_methods_by_default_and_does_not_change_the_parent(method, order, rate) -> None:
    run = spec(method, order=order)
    assert run.rate == rate and run.canonical["stage_learning_rate"] == rate
    other = spec(method, order=order, stage_learning_rate=3e-5)
    assert other.rate == 3e-5 and other.key != run.key and other.parent.key == run.parent.key
    assert run.parent.rate == 5e-4
    assert spec(method, order=order, stage_learning_rate=rate).key == run.key, "an explicit default has the same key"


def test_the_fields_of_a_stage_are_in_the_key_of_every_method_with_a_stage() -> None:
    for method in methods.registry().values():
        if method.starts_from is not None and method.trains:
            run = spec(method.name, order=min(method.orders) if method.orders else None)
            for field in ("stage_epochs", "stage_learning_rate", "stage_keep", "stage_patience"):
                assert run.model_copy(update={field: CHANGES[field]}).key != run.key, (method.name, field)


def test_keep_applies_to_a_stage_unless_stage_keep_overrides_it() -> None:
    assert (rme(keep="last").own_keep, rme(keep="last").parent.own_keep) == ("last", "last")
    other = rme(stage_keep="last")
    assert (other.own_keep, other.parent.own_keep) == ("last", "best") and other.parent.key == rme().parent.key
    assert rme(stage_keep="best").key == rme().key != other.key


def test_patience_applies_to_a_stage_unless_stage_patience_overrides_it() -> None:
    assert (rme(patience=7).own_patience, rme(patience=7).parent.own_patience) == (7, 7)
    other = rme(patience=7, stage_patience=3)
    assert (other.own_patience, other.parent.own_patience) == (3, 7)
    assert rme(patience=7, stage_patience=7).key == rme(patience=7).key
    assert rme(stage_patience=3).parent.key == rme().parent.key


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_that_changes_the_result_changes_the_key(field: str) -> None:
    assert rme(**{field: CHANGES[field]}).key != rme().key


@pytest.mark.parametrize("field", sorted(set(CHANGES) - {"order"}))
def test_the_key_of_a_vae_does_not_depend_on_fields_of_a_stage(field: str) -> None:
    changed = spec(**{field: CHANGES[field]})
    assert (changed.key == spec().key) == (field in OF_A_STAGE)


def test_methods_and_options_are_part_of_the_key(linearised, monkeypatch) -> None:
    monkeypatch.setitem(methods.registry(), "template", Template)
    assert spec("template").key != spec().key
    base = {"decoder": "fc", "order": 1}
    plain = spec("linearised", **base)
    assert plain.key != spec("linearised", **{**base, "order": 2}).key
    assert plain.key != spec("linearised", **base, options={"damping": 0.25}).key
    assert plain.key == spec("linearised", **base, options={"damping": 0.5}).key, "an explicit default has the same key"
    one, other = {"damping": 0.1, "rate": 3.0}, {"rate": 3.0, "damping": 0.1}
    assert spec("linearised", **base, options=one).key == spec("linearised", **base, options=other).key
    assert plain.key == spec("linearised", **base, options={"rate": 2}).key, "2 and 2.0 have the same key"


def test_different_spellings_of_a_run_have_the_same_key() -> None:
    assert rme(stage_epochs=None, epochs=30).key == rme(stage_epochs=30, epochs=30).key
    assert spec("VAE", dataset="Digits").key == spec().key
    assert rme(kl_max=500).key == rme(kl_max=500.0).key
    assert RunSpec(**rme(seed=4).model_dump()).key == rme(seed=4).key
    assert RunSpec.of(json.loads(json.dumps(rme(seed=4).model_dump(mode="json")))) == rme(seed=4)


def test_keys_of_a_users_own_images_depend_on_their_content(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    arrays = {"train": g.integers(0, 256, (20, 28, 28), np.uint8), "test": g.integers(0, 256, (5, 28, 28), np.uint8)}
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, **arrays)
    arrays["test"][0, 0, 0] ^= 1
    np.savez(tmp_path / "c.npz", **arrays)
    a, b, c = (spec(dataset=str(tmp_path / name)).key for name in ("a.npz", "b.npz", "c.npz"))
    assert a == b != c


def test_equal_specs_are_one_element_of_a_set() -> None:
    assert len({rme(), rme(), rme(seed=1), spec()}) == 3


def test_the_cell_key_depends_on_all_fields_but_the_seed() -> None:
    assert rme(seed=1).cell_key == rme(seed=2).cell_key != rme(seed=1).key
    for field in set(CHANGES) - {"seed"}:
        assert rme(**{field: CHANGES[field]}).cell_key != rme().cell_key, field


# ---------------------------------------------------------------------- the parent
def test_the_parent_is_the_vae_of_the_same_images_settings_and_seed() -> None:
    child = rme(seed=7, dim=20, decoder="fc", restarts=2, epochs=11, batch_size=32, learning_rate=2e-3,
                iwae_samples=9, precision="float64", stage_epochs=5, kl_max=3.0)  # fmt: skip
    wanted = spec(seed=7, dim=20, decoder="fc", restarts=2, epochs=11, batch_size=32, learning_rate=2e-3,
                  iwae_samples=9, precision="float64")  # fmt: skip
    assert child.parent.key == wanted.key
    assert (child.parent.method, child.parent.order, child.parent.training_epochs) == ("vae", None, 11)
    assert (child.training_epochs, child.rate) == (5, 1e-6)
    assert rme(epochs=11).training_epochs == 11
    assert (wanted.training_epochs, wanted.rate, wanted.parent) == (11, 2e-3, None)


def test_children_that_differ_in_their_own_fields_share_a_parent() -> None:
    assert rme(order=2, kl_max=1.0).parent.key == rme(order=5, eps_max=0.3, stage_learning_rate=1e-3).parent.key


# ---------------------------------------------------------------------- invalid settings
@pytest.mark.parametrize(("fields", "said"), [
    ({"method": "rme", "order": 6}, ["order=6", "components", "2, 3, 4, 5"]),
    ({"method": "rme"}, ["order=None", "2, 3, 4, 5"]),
    ({"order": 2}, ["order=2", "VAE", "no order"]),
    ({"method": "reme", "order": 2}, ["method", "'reme'", "rme", "vae"]),
    ({"dataset": "mnits"}, ["dataset", "'mnits'", "digits", "mnist", ".npz"]),
    ({"decoder": "deconv"}, ["decoder", "'deconv'", "conv", "fc"]),
    ({"method": "rme", "order": 2, "eps_min": 0.1}, ["eps_min=0.1", "eps_max=0.1"]),
    ({"method": "rme", "order": 2, "eps_min": 0.2, "eps_max": 0.1}, ["eps_min=0.2", "eps_max=0.1"]),
    ({"dimension": 3}, ["dimension", "no such field", "dim", "learning_rate"]),
    ({"dim": 0}, ["dim=0", "1"]),
    ({"seed": -1}, ["seed=-1", "0"]),
    ({"learning_rate": 0.0}, ["learning_rate=0.0", "greater than 0"]),
    ({"learning_rate": float("nan")}, ["learning_rate=nan"]),
    ({"method": "rme", "order": 2, "kl_max": float("inf")}, ["kl_max=inf"]),
    ({"options": {"beta": 4.0}}, ["options", "beta", "none"]),
    ({"precision": "bfloat16"}, ["precision", "'bfloat16'", "float32", "float64"]),
    ({"restarts": 0}, ["restarts=0"]),
    ({"epochs": 5, "finish_epochs": 5}, ["finish_epochs=5", "fewer than epochs=5"]),
    ({"epochs": 5, "finish_epochs": 1, "patience": 2}, ["patience=2", "finish_epochs=1", "stage_patience"]),
    ({"keep": "first"}, ["keep", "'first'", "best, last"]),
    ({"patience": 0}, ["patience=0"]),
    ({"variant": " "}, ["variant", "'kl 20'"]),
    ({"variant": "x" * 41}, ["variant", "40 characters"]),
    ({"variant": "none"}, ["variant", "'none'", "without a variant"]),
])  # fmt: skip
def test_an_error_names_the_value_and_what_would_be_valid(fields: dict, said: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        RunSpec.of({"method": "vae", "dataset": "digits", "dim": 10, **fields})
    for part in said:
        assert part in str(error.value), str(error.value)


def test_a_method_for_another_decoder_is_refused(linearised) -> None:
    with pytest.raises(SpecError, match=r"decoder='conv'.*Linearised.*fc only"):
        RunSpec.of({"method": "linearised", "dataset": "digits", "dim": 10, "order": 1})
    assert RunSpec.of({"method": "linearised", "dataset": "digits", "dim": 10, "order": 1, "decoder": "fc"})
    with pytest.raises(SpecError, match=r"options speed.*damping, rate"):
        spec_of = {"method": "linearised", "dataset": "digits", "dim": 10, "order": 1, "decoder": "fc"}
        RunSpec.of({**spec_of, "options": {"speed": 1.0}})


def test_missing_fields_are_named() -> None:
    with pytest.raises(SpecError) as error:
        RunSpec.of({"method": "vae"})
    assert "dataset: missing" in str(error.value) and "dim: missing" in str(error.value)


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(SpecError) as error:
        RunSpec.of({"method": "reme", "dataset": "mnits", "dim": -5, "colour": 1})
    for part in ("reme", "mnits", "dim=-5", "colour"):
        assert part in str(error.value)
    with pytest.raises(SpecError) as error:
        RunSpec.of({"method": "rme", "order": 9, "dataset": "digits", "dim": 5, "eps_min": 0.5, "options": {"x": 1}})
    for part in ("order=9", "eps_min=0.5", "options x"):
        assert part in str(error.value)


def test_a_run_cannot_be_changed() -> None:
    run = spec()
    with pytest.raises(ValueError, match="frozen"):
        run.seed = 4
    assert run.seed == 0
