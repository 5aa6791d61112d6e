"""For any run: it is read as it was stored, and its key depends on exactly the settings that affect the training."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rme import data, methods
from rme.config import RunSpec, SpecError
from rme.timing import TimingSpec

RATES = st.sampled_from([1e-6, 5e-4, 0.1 + 0.2, 1e-3]) | st.floats(0, 1, exclude_min=True, exclude_max=True)
EPOCHS = st.integers(1, 4)


@st.composite
def values(draw: st.DrawFn) -> dict[str, Any]:
    """Fields of a valid run, from few values each, so that two runs are often similar."""
    method = methods.get(draw(st.sampled_from(methods.names())))
    given = draw(
        st.fixed_dictionaries(
            {"dataset": st.sampled_from(["digits", "mnist", "Digits"]), "dim": st.integers(1, 2)},
            optional={
                "decoder": st.sampled_from(method.decoders), "seed": st.integers(0, 1), "restarts": st.integers(1, 2),
                "epochs": EPOCHS, "batch_size": st.integers(1, 2), "learning_rate": RATES,
                "finish_epochs": st.integers(0, 2), "finish_learning_rate": RATES,
                "keep": st.sampled_from(["best", "last"]), "patience": st.none() | EPOCHS,
                "iwae_samples": st.integers(1, 2), "precision": st.sampled_from(["float32", "float64", "bf16"]),
                "stage_epochs": st.none() | EPOCHS, "stage_learning_rate": st.none() | RATES,
                "stage_keep": st.sampled_from([None, "best", "last"]), "stage_patience": st.none() | EPOCHS,
                "eps_min": st.floats(1e-3, 0.05), "eps_max": st.floats(0.06, 0.9),
                "kl_max": st.sampled_from([0.0, -0.0, 5, 500.0, 1e300]) | st.floats(0, 1e6),
                "variant": st.sampled_from([None, "a", "kl 20"]),
                "options": st.fixed_dictionaries({}, optional={
                    name: st.sampled_from([default, 0.0, -0.0, 2]) for name, default in method.options.items()
                }),
            },
        )
    )  # fmt: skip
    order = draw(st.sampled_from(method.orders)) if method.orders else None
    given.setdefault("decoder", method.decoders[0])
    return {"method": draw(st.sampled_from([method.name, method.name.upper()])), "order": order, **given}


def spec(given: dict[str, Any]) -> RunSpec:
    """The run; without its finish, if that is incompatible with the other fields."""
    try:
        return RunSpec.of(given)
    except SpecError as error:
        assert "finish_epochs" in str(error)
        return RunSpec.of({**given, "finish_epochs": 0})


SPECS = values().map(spec)


def meaning(run: RunSpec) -> tuple:
    """Everything that affects the training, from the properties that the engine uses, without the key's own code."""
    method = run.method_class
    own: dict[str, Any] = {
        "method": run.method,
        "order": run.order,
        "keep": run.keep,
        "learning_rate": run.learning_rate,
    }
    for name in ("dim", "decoder", "seed", "restarts", "batch_size", "iwae_samples", "precision", "epochs"):
        own[name] = getattr(run, name)
    own["dataset"] = data.identity(run.dataset)
    own["finish"] = (run.finish_epochs, run.finish_learning_rate) if run.finish_epochs else None
    own["patience"] = run.patience
    if method.trains:
        own["training"] = (run.own_keep, run.own_patience, run.training_epochs, run.rate)
    own["fields"] = {name: getattr(run, name) for name in method.fields}
    own["options"] = {**method.options, **run.options}
    return tuple(sorted((name, str(value)) for name, value in own.items()))


@given(SPECS)
def test_a_run_is_read_as_it_was_stored(run):
    for stored in (
        json.loads(json.dumps(run.model_dump(mode="json"))),
        json.loads(run.model_dump_json()),
        run.model_dump(),
    ):
        again = RunSpec.of(stored)
        assert again == run and (again.key, again.cell_key) == (run.key, run.cell_key)
        assert again.run_name == run.run_name and again.parent == run.parent


@settings(max_examples=200)
@given(given=values(), others=values(), changed=st.lists(st.sampled_from(sorted(RunSpec.model_fields)), max_size=2))
def test_two_runs_have_the_same_key_if_and_only_if_they_are_the_same_training(given, others, changed):
    run = spec(given)
    # another run, which differs in a few fields if that is valid
    mixed = {**given, **{name: others[name] for name in changed if name in others}}
    try:
        other = RunSpec.of(mixed)
    except SpecError:
        other = spec(others)
    assert (run.key == other.key) == (meaning(run) == meaning(other))
    if run == other:
        assert run.key == other.key and hash(run) == hash(other)
    # fields that matter only for some methods or together with others, which random changes rarely reach
    for name, value in (("stage_keep", "best"), ("stage_keep", "last"), ("stage_patience", 2), ("keep", "last")):
        near = run.model_copy(update={name: value})
        assert (run.key == near.key) == (meaning(run) == meaning(near))
    same_but_seed = meaning(run) == meaning(other.model_copy(update={"seed": run.seed}))
    assert (run.cell_key == other.cell_key) == same_but_seed


@given(SPECS)
def test_a_parent_is_a_run_from_scratch_with_the_common_settings(run):
    parent = run.parent
    assert (parent is None) == (run.method_class.starts_from is None)
    if parent is not None:
        assert parent.parent is None and parent.key != run.key
        assert parent == RunSpec.of(parent.model_dump())
        assert (parent.seed, parent.dataset, parent.training_epochs) == (run.seed, run.dataset, run.epochs)
        # fields of the stage do not change the parent
        assert run.model_copy(update={"stage_epochs": 9, "stage_keep": "last"}).parent == parent


@given(SPECS)
def test_every_epoch_has_a_rate_and_the_last_ones_that_of_the_finish(run):
    rates = [run.rate_of(epoch) for epoch in range(1, run.training_epochs + 1)]
    assert (
        rates == [run.rate] * (len(rates) - run.own_finish_epochs) + [run.finish_learning_rate] * run.own_finish_epochs
    )


@given(run=SPECS, repeats=st.integers(2, 5))
def test_a_timing_is_read_as_it_was_stored_and_differs_from_a_training(run, repeats):
    fields = {name: getattr(run, name) for name in TimingSpec.FIELDS if name != "repeats"}
    timing = TimingSpec.of({**fields, "repeats": repeats})
    again = TimingSpec.of(json.loads(json.dumps(timing.model_dump(mode="json"))))
    assert again == timing and again.key == timing.key != run.key and again != run


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from([10**400, "1e-3"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=200)
@given(given=values(), name=st.sampled_from(sorted(RunSpec.model_fields)) | st.text(max_size=4), value=ANYTHING)
def test_any_value_of_a_field_is_valid_or_refused_by_the_fields_name(given, name, value):
    try:
        run = RunSpec.of({**given, name: value})
    except SpecError as error:
        assert name in str(error) or "finish_epochs" in str(error)
        return
    assert name in RunSpec.model_fields and not isinstance(value, bool)
    assert RunSpec.of(json.loads(json.dumps(run.model_dump(mode="json")))) == run
