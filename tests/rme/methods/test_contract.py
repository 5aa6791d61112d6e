"""The contract of all methods. A new file in `rme/methods/` is tested here automatically."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rme import data, evaluate, methods
from rme.adam import Adam
from rme.checkpoint import Checkpoints
from rme.config import RunSpec
from rme.data import Images
from rme.engine import Engine, member_parameters
from rme.methods._template import Template
from rme.methods.base import Method
from rme.noise import Noise
from rme.step import Step


def cases(trained: bool = False) -> list:
    """Every method (or every trained one), at its smallest and largest order, with each of its decoders.

    Marked slow: the largest order with a second decoder, or of a file's second method, which shares the first's code.
    """
    out = []
    files: set[str] = set()
    for method in [*methods.registry().values(), Template]:
        if trained and not method.trains:
            continue
        variant = method.__module__ in files
        files.add(method.__module__)
        orders = sorted(method.orders) if method.orders else [None]
        for decoder in method.decoders:
            for order in dict.fromkeys([orders[0], orders[-1]]):
                slow = order != orders[0] and (variant or decoder != method.decoders[0])
                name = f"{method.name}-{order}-{decoder}" if order else f"{method.name}-{decoder}"
                out.append(pytest.param(method, order, decoder, id=name, marks=[pytest.mark.slow] * slow))
    return out


every_method = pytest.mark.parametrize(("method", "order", "decoder"), cases())
every_trained_method = pytest.mark.parametrize(("method", "order", "decoder"), cases(trained=True))


@pytest.fixture(autouse=True)
def template_is_registered(monkeypatch) -> None:
    monkeypatch.setitem(methods.registry(), Template.name, Template)


@pytest.fixture
def spec(tiny, method: type[Method], order: int | None, decoder: str):
    """Makes specs of the method under test. An epoch of the 36 images has two steps, of 32 and 4 images."""
    return lambda **fields: tiny.spec(method.name, order, decoder=decoder, **{"batch_size": 32, **fields})


def state(engine: Engine) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in engine.state().items() if n not in ("history.seconds", "history.finished_at")}


# ---------------------------------------------------------------------- the declaration
@every_method
def test_its_declaration_is_valid(method: type[Method], order: int | None, decoder: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", method.name) and method.label
    assert set(method.decoders) <= {"conv", "fc"} and method.decoders
    assert set(method.fields) <= set(RunSpec.model_fields) and 0 < method.stage_rate < 1
    if method.orders is not None:
        assert method.order_means and all(o > 0 for o in method.orders)
    if method.starts_from is not None:
        assert method.starts_from in methods.registry()


# ---------------------------------------------------------------------- the posterior
@every_method
def test_posterior_shapes_and_draws(small, spec) -> None:
    engine = small.engine([spec(seed=s, precision="float64") for s in (1, 2)])
    images, draws, dim = 5, 4, 3
    x = engine.method.centred(small.images.test[:images].expand(2, -1, -1, -1, -1))
    assert x.shape == (2, images, 1, 8, 8) and x.dtype == torch.float64

    def streams(*seeds: int) -> Noise:
        return Noise([torch.Generator().manual_seed(s) for s in seeds], torch.float64)

    with torch.no_grad():
        q = engine.method.posterior(x, streams(5, 6))
        z = q.sample(streams(0, 1), draws)
        assert z.shape == (2, draws, images, dim) and z.dtype == torch.float64
        log_q = q.log_prob(z)
        assert log_q.shape == (2, draws, images) and log_q.isfinite().all()
        for s in range(draws):
            torch.testing.assert_close(q.log_prob(z[:, s]), log_q[:, s], rtol=1e-10, atol=1e-10)
        again = engine.method.posterior(x, streams(5, 6))
        assert torch.equal(again.sample(streams(0, 1), draws), z), "the given noise is the only source of randomness"
        both, log_both = again.sample_with_log_prob(streams(0, 1), draws)
        assert torch.equal(both, z)
        torch.testing.assert_close(log_both, log_q, rtol=1e-10, atol=1e-10)
        other = again.sample(streams(0, 9), draws)
        assert torch.equal(other[0], z[0]) and not torch.isclose(other[1], z[1]).any()
        assert not torch.isclose(z[:, 0], z[:, 1]).any()


@every_method
def test_the_density_belongs_to_the_draws(small, spec, method: type[Method]) -> None:
    """E_q[f / q] is the integral of f: for f a Gaussian fitted to the draws, the mean ratio must be one."""
    engine = small.engine(spec(seed=1, precision="float64", dim=1))
    if method.trains:
        engine.train_epoch()
    draws = 10_000
    with torch.no_grad():
        noise = Noise([torch.Generator().manual_seed(0)], torch.float64)
        q = engine.method.posterior(engine.method.centred(small.images.test[:2].unsqueeze(0)), noise)
        z = q.sample(noise, draws)
        # narrower than the draws, so that the ratio has a finite variance
        f = torch.distributions.Normal(z.mean(1, keepdim=True), 0.7 * z.std(1, keepdim=True))
        ratio = torch.exp(f.log_prob(z).sum(-1) - q.log_prob(z))
    error = ratio.std(1) / math.sqrt(draws)
    assert ((ratio.mean(1) - 1).abs() < 5 * error + 1e-9).all()
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / math.sqrt(ratio.numel()) + 1e-9, "over all images"
    assert (error < 0.05).all(), "too noisy to show anything"


# ---------------------------------------------------------------------- the updates
@every_trained_method
def test_an_update_changes_its_own_parameters_and_no_others(small, spec, monkeypatch) -> None:
    engine = small.engine([spec(seed=s, precision="float64") for s in (1, 2)])
    names = [u.name for u in engine.updates]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)
    engine.train_epoch()  # so that no parameter is exactly zero
    whose = {id(p): name for name, p in engine.method.named_parameters()}
    named: set[str] = set()
    step = Step(engine.method.centred(engine.pixels[engine.train_index[:, :16]]), engine.noise, engine.iteration)
    for update, adam in zip(engine.updates, engine.optimisers, strict=True):
        own = {whose[id(p)] for p in update.parameters}
        assert own and len(own) == len(update.parameters)
        named |= own
        gradients: list[Tensor] = []

        def descend(given, adam=adam, gradients=gradients) -> None:
            gradients.extend(given)
            Adam.step(adam, given)

        monkeypatch.setattr(adam, "step", descend)
        before = {name: value.clone() for name, value in engine.method.state_dict().items()}
        loss = engine._apply(update, adam, step)
        assert loss.shape == (2,) and loss.isfinite().all() and loss.dtype == torch.float64
        changed = {n for n, value in engine.method.state_dict().items() if not torch.equal(value, before[n])}
        assert changed == own
        for parameter, gradient in zip(update.parameters, gradients, strict=True):
            name = whose[id(parameter)]
            assert gradient.isfinite().all(), name
            assert (gradient.reshape(2, -1).abs().amax(1) > 0).all(), f"{name} has no gradient in {update.name}"
    assert named == set(whose.values()), "a parameter that no update names is never trained"


# ---------------------------------------------------------------------- arrays
def trained(engine: Engine, steps: int = 2) -> tuple[Engine, Tensor]:
    """Train for some steps on each member's first training images; the engine and the losses, (steps, U, B)."""
    losses = [engine.train_step(engine.train_index[:, 8 * i : 8 * i + 8]) for i in range(steps)]
    return engine, torch.stack(losses)


@pytest.mark.parametrize(
    ("precision", "method", "order", "decoder"),
    [
        pytest.param(precision, *case.values, id=f"{precision}-{case.id}", marks=case.marks)
        for precision in ("float64", "float32")
        for case in cases(trained=True)
        if precision == "float64" or case.values[1] in (None, min(case.values[0].orders or [None]))
    ],
)
def test_an_array_of_three_equals_three_alone(small, spec, precision: str) -> None:
    specs = [spec(seed=s, precision=precision) for s in (1, 2, 3)]
    engine, losses = trained(small.engine(specs))
    for i, own in enumerate(specs):
        if precision == "float32" and i != 1:
            continue  # every member is compared in float64, which is more precise
        alone, own_losses = trained(small.engine(own))
        if precision == "float32":
            torch.testing.assert_close(losses[..., i], own_losses[..., 0], rtol=1e-5, atol=1e-5)
            continue
        torch.testing.assert_close(losses[..., i], own_losses[..., 0], rtol=1e-12, atol=1e-12)
        theirs = member_parameters(engine.method, i)
        for name, value in member_parameters(alone.method, 0).items():
            assert (value - theirs[name]).norm() <= 1e-12 * max(1.0, value.norm().item()), name
    assert not torch.isclose(losses[..., 0], losses[..., 1]).any()


@every_trained_method
def test_restarts_are_trained_independently(small, spec) -> None:
    """In a run of two restarts the first equals a run of one, and the second differs."""
    _, losses = trained(small.engine(spec(precision="float64", restarts=2)))
    _, own_losses = trained(small.engine(spec(precision="float64", restarts=1)))
    torch.testing.assert_close(losses[..., :1], own_losses, rtol=1e-12, atol=1e-12)
    assert not torch.isclose(losses[..., 0], losses[..., 1]).any()


# ---------------------------------------------------------------------- resuming
@every_trained_method
def test_interrupted_equals_uninterrupted_bit_for_bit(small, spec, tmp_path: Path) -> None:
    specs = [spec(seed=s) for s in (1, 2)]
    whole, second = small.engine(specs), small.engine(specs)
    checkpoints = Checkpoints(tmp_path)
    whole.train_epoch()
    whole.validate()
    checkpoints.save(whole.epoch, whole.state(), {})
    saved, _ = checkpoints.newest()
    second.load_state(saved)
    assert second.epoch == 1
    for engine in (whole, second):
        engine.train_epoch()
        engine.validate()
    a, b = state(whole), state(second)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []
    assert any(not torch.equal(a[name], saved[name]) for name in a if name.startswith("model."))


# ---------------------------------------------------------------------- special cases
@every_trained_method
def test_a_last_batch_of_one_image_is_trained_on(tiny, few, spec) -> None:
    """With images of 28x28, which the networks halve to 14, 7 and 3."""
    engine = tiny.engine(spec(batch_size=4), few)
    assert engine.train_index.shape == (1, 5), "a batch of 4 and one of 1"
    assert engine.train_epoch().isfinite().all()
    assert all(p.isfinite().all() for p in engine.method.parameters())
    assert engine.iteration == 2


@every_trained_method
def test_training_lowers_the_loss(small, digits, spec) -> None:
    """The last update's loss, on real images. Not the ELBO, which not every method maximises."""
    # with this seed the VAE that a stage starts from has not converged, and at this rate no method diverges
    engine = small.engine(spec(seed=1, precision="float64", batch_size=8, stage_learning_rate=3e-4), digits)
    method = engine.method

    def loss() -> float:
        """On all training images, with the same draws each time, so that only training changes it."""
        noise = Noise([torch.Generator().manual_seed(0)], torch.float64)
        method.requires_grad_(True)  # SA's loss differentiates its decoder
        found = engine.updates[-1].loss(Step(method.centred(engine.pixels[engine.train_index]), noise, 0)).item()
        method.requires_grad_(False)
        return found

    before = loss()
    engine.train_epoch()
    assert loss() < before - 0.2
    assert method.pixel_mean.dtype == torch.float64


@every_method
def test_iwae_is_above_the_elbo_image_by_image(small, spec) -> None:
    """By Jensen's inequality, for the same draws."""
    engine = small.engine(spec(precision="float64"))
    stream = [torch.Generator().manual_seed(0)]
    found = evaluate.scores(engine.method, engine.pixels, engine.train_index, samples=10, generators=stream)
    assert found.iwae.shape == (1, 36) and (found.iwae >= found.elbo).all() and (found.iwae > found.elbo).any()


@pytest.fixture(scope="module")
def few(tiny) -> Images:
    """Six images, five of which are for training."""
    return Images(tiny.images.train[:6], tiny.images.test)


@pytest.fixture(scope="module")
def digits() -> Images:
    """A few of the handwritten digits, reduced to 8x8."""
    images = data.get("digits").load(Path())
    shrink = torch.nn.AdaptiveAvgPool2d(8)
    return Images(*(shrink(part.float()).round().to(torch.uint8) for part in (images.train[:60], images.test[:10])))


def test_the_loss_falls_on_real_images() -> None:
    images = data.get("digits").load(Path())
    spec = RunSpec(method="vae", dataset="digits", dim=5, restarts=1, learning_rate=1e-3)
    engine = Engine([spec], images, [data.get("digits").split(images, 0)])
    losses = [engine.train_epoch().item() for _ in range(3)]
    assert losses[0] > losses[1] + 20 and losses[1] > losses[2]


def test_the_largest_images_and_colour_work(tiny) -> None:
    from tests.tiny import blobs

    images = Images(blobs(12, (3, 64, 64), 1), blobs(3, (3, 64, 64), 2))
    engine = tiny.engine(tiny.spec("rme", 2), images)
    assert engine.train_epoch().isfinite().all()
    pictures = evaluate.reconstructions(engine.method, images.test, torch.Generator().manual_seed(0))
    assert pictures.shape == (2, 3, 3, 64, 64) and torch.equal(pictures[0], images.test)
    assert evaluate.prior_samples(engine.method, 2, torch.Generator().manual_seed(0)).shape == (2, 3, 64, 64)


# ---------------------------------------------------------------------- the template
def test_the_template_is_a_vae_with_a_weight_on_the_kl(tiny) -> None:
    """With the default beta its loss is the VAE's; with beta = 3 it is 2 KL more."""
    runs = {
        name: tiny.engine(tiny.spec(method, precision="float64", options=options))
        for name, method, options in (("vae", "vae", {}), ("1", "template", {}), ("3", "template", {"beta": 3.0}))
    }
    index = torch.arange(8).unsqueeze(0)
    q = runs["vae"].method.encoder(runs["vae"].method.centred(tiny.images.train[index]))
    prior = torch.distributions.Normal(torch.zeros_like(q.mu), torch.ones_like(q.mu))
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(q.mu, (q.logvar / 2).exp()), prior).sum(-1).mean()
    loss = {name: engine.train_step(index).item() for name, engine in runs.items()}
    assert loss["1"] == pytest.approx(loss["vae"], rel=1e-13)
    assert loss["3"] == pytest.approx(loss["vae"] + 2 * kl.item(), rel=1e-12)


# ---------------------------------------------------------------------- the registry
@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """An additional folder of methods, and an empty registry."""
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(methods, "_registry", None)
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("rme.methods.zz_")]:
        del sys.modules[name]


_GOOD = """
from rme.methods.vae import VAE
class Mine(VAE):
    name, label = "mine", "Mine"
"""


def test_a_file_in_the_folder_is_registered(folder: Path) -> None:
    (folder / "zz_mine.py").write_text(_GOOD)
    (folder / "_helper.py").write_text("raise RuntimeError('imported')")
    found = methods.registry()
    assert found["mine"].label == "Mine" and methods.names() == sorted(found)
    assert methods.get("MINE") is found["mine"]
    assert found["vae"].__name__ == "VAE", "an imported base is not registered again"


@pytest.mark.parametrize(("text", "message"), [
    ("import no_such_module_at_all", "no_such_module_at_all"),
    ("def broken(:", "SyntaxError"),
    (_GOOD.replace('"mine"', '"Mine"'), "lower case"),
    (_GOOD.replace('"mine"', '"vae"'), "already used by"),
    ("x = 1", "no Method subclass"),
    ("""
from rme.methods.base import Method
class Half(Method):
    name, label = "half", "Half"
    def posterior(self, x, noise): ...
""", "updates"),
    (_GOOD.replace("VAE):", "Base):").replace("from rme.methods.vae import VAE", """
from rme.methods.base import Method
class Base(Method):
    def posterior(self, x, noise): ...
    def updates(self): ...
""").replace('name, label = "mine", "Mine"', 'name = "mine"'), "label"),
])  # fmt: skip
def test_an_error_names_the_file_and_what_is_wrong(folder: Path, text: str, message: str) -> None:
    (folder / "zz_wrong.py").write_text(text)
    with pytest.raises(ImportError, match=r"rme/methods/zz_wrong\.py") as error:
        methods.registry()
    assert message in str(error.value)


def test_an_unknown_name_raises_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'vea'; did you mean vae\? valid values are .*rme.*vae"):
        methods.get("vea")
