"""The stages of `bench.device` that measure with code of their own: right, graph, kernels, epoch, packing."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import models, reference
from bench.reference import GivenNoise, RecordedNoise, Size
from bench.stages import epoch, graph, kernels, packing, packing_child, right
from bench.stages.case import Check
from bench.stages.right import Variant
from rme import kernels as layers
from rme import nets, noise
from rme.adam import Adam
from rme.cuda_graph import WARM_UP
from rme.engine import Engine
from rme.noise import Noise
from rme.step import Step
from tests.rme.test_cuda_graph import Recording

CPU = torch.device("cpu")
TINY = Size(shape=(1, 8, 8), dim=2, batch=8, members=2, scored=3, samples=4)
METHODS = [("vae", None), ("rme", 2)]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("stage", [right, graph, kernels, epoch, packing], ids=lambda stage: stage.__name__)
def test_cases_have_unique_names(stage, device: str) -> None:
    names = [case.name for case in stage.cases(torch.device(device))]
    assert len(set(names)) == len(names)
    assert bool(names) == (stage is not graph or device == "cuda"), "a CPU has no CUDA graphs"


# ---------------------------------------------------------------------- given noise
def recorded() -> RecordedNoise:
    return RecordedNoise([torch.Generator().manual_seed(i) for i in range(2)], torch.float64)


def test_given_noise_repeats_what_was_drawn() -> None:
    source = recorded()
    drawn = [source.normal((2, 3)), source.uniform((2, 4)), source.normal((2, 1, 5))]
    given = GivenNoise(source.draws, source.generators, torch.float32)
    assert not given.exhausted
    states = [g.get_state() for g in source.generators]
    for _ in range(2):
        for kind, value in zip(("normal", "uniform", "normal"), drawn, strict=True):
            found = getattr(given, kind)(value.shape)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, value.float(), rtol=0, atol=0)
            found.zero_()  # as a method that works in place; the next round must not see it
            assert given.exhausted == (value is drawn[-1])
    assert all(torch.equal(g.get_state(), s) for g, s in zip(source.generators, states, strict=True))


@pytest.mark.parametrize(("kind", "shape"), [("uniform", (2, 3)), ("normal", (2, 4))])
def test_another_draw_than_the_given_one_is_an_error(kind: str, shape: tuple[int, ...]) -> None:
    source = recorded()
    source.normal((2, 3))
    with pytest.raises(ValueError, match=r"draw 0: normal noise of shape \(2, 3\) is given"):
        getattr(GivenNoise(source.draws, source.generators, torch.float32), kind)(shape)


def test_a_draw_that_was_not_given_is_an_error() -> None:
    with pytest.raises(ValueError, match="no draw is given"):
        GivenNoise([], recorded().generators, torch.float32).normal((2, 3))


# ---------------------------------------------------------------------- the reference step
def test_the_references_change_is_adams_at_the_1001st_step() -> None:
    """Algorithm 1 of Kingma and Ba, with first moments of 0, and second moments of each member's mean square."""
    expected = reference.reference("vae", None, TINY)
    run = expected.run.model_copy(update={"precision": "float64"})
    engine = reference.engine(run, TINY, CPU)
    engine.method.load_state_dict(expected.start)
    given = GivenNoise(expected.draws, engine.noise.generators, torch.float64)
    parameters = dict(engine.method.named_parameters())
    for p in parameters.values():
        p.requires_grad_(True)
    x = engine.pixels[TINY.index].double() / 255 - engine.method.pixel_mean.unsqueeze(1)
    loss = engine.updates[0].loss(Step(x, given, 0))
    torch.testing.assert_close(loss.detach(), expected.losses[0], rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(loss.sum(), list(parameters.values()))
    for name, g in zip(parameters, gradients, strict=True):
        square = torch.stack([(one**2).mean() for one in g]).view(-1, *[1] * (g.dim() - 1))
        first = 0.1 * g / (1 - 0.9**1001)
        second = (0.999 * square + 0.001 * g**2) / (1 - 0.999**1001)
        torch.testing.assert_close(expected.change[name], -1e-2 * first / (second.sqrt() + 1e-8), rtol=1e-5, atol=1e-12)


# ---------------------------------------------------------------------- right
def judged(method: str, order: int | None) -> tuple[Engine, reference.Reference]:
    expected = right._reference(method, order, TINY)
    return reference.engine(expected.run, TINY, CPU), expected


def wrong(checks: list[Check]) -> set[str]:
    """The kinds of the checks that are not right."""
    return {check.what.split()[0] for check in checks if not check.right}


class SpoiledAdam(Adam):
    """Adam that scales the first parameter's gradient by 1.1."""

    def step(self, gradients) -> None:
        super().step([1.1 * gradients[0], *gradients[1:]])


def spoil_gradient(engine: Engine, expected: reference.Reference) -> reference.Reference:
    engine.optimisers[-1] = SpoiledAdam(engine.updates[-1].parameters, engine.spec.rate)
    return expected


def spoil_rate(engine: Engine, expected: reference.Reference) -> reference.Reference:
    engine.optimisers[-1].rate *= 1.1
    return expected


def spoil_noise(engine: Engine, expected: reference.Reference) -> reference.Reference:
    """Swap the members' streams."""
    return replace(expected, draws=[draw._replace(value=draw.value.flip(0)) for draw in expected.draws])


def spoil_images(engine: Engine, expected: reference.Reference) -> reference.Reference:
    engine.pixels = engine.pixels.flip(0)
    return expected


@pytest.mark.parametrize(("method", "order"), METHODS)
def test_a_right_step_passes(method: str, order: int | None) -> None:
    assert wrong(right.checks(*judged(method, order), Variant())) == set()


@pytest.mark.parametrize(("method", "order"), METHODS)
@pytest.mark.parametrize(("spoil", "found"), [
    (spoil_gradient, {"change"}), (spoil_rate, {"change"}), (spoil_noise, {"losses", "change"}),
    (spoil_images, {"losses", "change", "IWAE"}),
])  # fmt: skip
def test_a_wrong_step_fails(method: str, order: int | None, spoil, found: set[str]) -> None:
    engine, expected = judged(method, order)
    assert wrong(right.checks(engine, spoil(engine, expected), Variant())) == found


def test_a_step_that_leaves_noise_unused_is_an_error() -> None:
    engine, expected = judged("vae", None)
    with pytest.raises(RuntimeError, match="1 of 2 draws were used by the step"):
        right.checks(engine, replace(expected, draws=expected.draws * 2), Variant())


def test_nan_fails(monkeypatch) -> None:
    engine, expected = judged("vae", None)
    step = engine.train_step
    monkeypatch.setattr(engine, "train_step", lambda index: step(index) * torch.nan)
    assert wrong(right.checks(engine, expected, Variant())) == {"losses"}


def test_a_step_that_draws_nothing_is_an_error(monkeypatch) -> None:
    engine, expected = judged("vae", None)
    monkeypatch.setattr(engine, "train_step", lambda index: torch.zeros(1, 2))
    with pytest.raises(RuntimeError, match="0 of 1 draws were used by the step"):
        right.checks(engine, expected, Variant())


class RoundedToTF32(TorchDispatchMode):
    """Where TF32 is allowed, rounds the factors of every product and convolution to 10 bits of mantissa, as a GPU."""

    PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm,
                torch.ops.aten.convolution, torch.ops.aten.convolution_backward)  # fmt: skip

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in self.PRODUCTS and torch.backends.cuda.matmul.allow_tf32:
            args = tuple(map(self.rounded, args))
        return function(*args, **(kwargs or {}))

    @staticmethod
    def rounded(value):
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        bits = torch.empty_like(value).copy_(value).view(torch.int32)  # not a view of an expanded tensor
        return ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)


@pytest.mark.parametrize(("method", "order"), METHODS)
def test_tf32_is_judged_by_its_own_tolerances(method: str, order: int | None) -> None:
    with RoundedToTF32():
        tf32 = right.checks(*judged(method, order), Variant(tf32=True))
        float32 = right.checks(*judged(method, order), Variant(tf32=False))
    assert wrong(tf32) == wrong(float32) == set()
    assert tf32[0].difference > right.LOSSES / 2 > float32[0].difference, "only one of the two was rounded"


@pytest.mark.parametrize(("method", "order"), METHODS)
def test_streams_are_right(method: str, order: int | None) -> None:
    run = models.spec(method, order, dim=TINY.dim, batch_size=TINY.batch)
    for checks in (right.alone_checks(run, TINY, CPU), right.resumed_checks(run, TINY, CPU)):
        assert wrong(checks) == set()


def test_members_that_share_a_stream_fail(monkeypatch) -> None:
    def shared(self, shape, draw):
        return draw(torch.empty(tuple(shape), dtype=self.dtype), generator=self.generators[0])

    monkeypatch.setattr(Noise, "_fill", shared)
    run = models.spec("vae", dim=TINY.dim, batch_size=TINY.batch)
    assert wrong(right.alone_checks(run, TINY, CPU)) == {"losses,", "generators"}


@pytest.mark.parametrize("lost", ["stream.train.1", "adam.vae.3.exp_avg_sq"])
def test_a_resumed_training_without_a_part_of_its_state_fails(lost: str, monkeypatch) -> None:
    load = Engine.load_state

    def without(self, state):
        load(self, {**state, lost: self.state()[lost]})

    monkeypatch.setattr(Engine, "load_state", without)
    run = models.spec("vae", dim=TINY.dim, batch_size=TINY.batch)
    assert "losses," in wrong(right.resumed_checks(run, TINY, CPU))


def test_generators_in_different_states_are_counted() -> None:
    ours, theirs = ([noise.generator(0, i, noise.TRAIN) for i in range(3)] for _ in range(2))
    assert right.differing(ours, theirs) == 0
    torch.rand(1, generator=theirs[1])
    assert right.differing(ours, theirs) == 1


class Replayed:
    """A `Graphed` step on a CPU: after WARM_UP calls it records the step's operations, and then replays these."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.calls, self.graphs = engine, 0, {}

    def __call__(self, index):
        self.calls += 1
        if self.calls <= WARM_UP:
            return self.engine._step(index)
        if not self.graphs:
            engine = self.engine
            live = [*engine.method.state_dict().values(), engine.iteration]
            live += [value for adam in engine.optimisers for value in adam.state().values()]
            before = [value.clone() for value in live]
            states = [g.get_state() for g in engine.noise.generators]
            index = index.clone()
            with Recording() as recording:
                result = engine._step(index)
            self.graphs[index.shape] = recording, index, result
            # unlike a recording, a capture changes nothing
            for value, earlier in zip(live, before, strict=True):
                value.copy_(earlier)
            for g, state in zip(engine.noise.generators, states, strict=True):
                g.set_state(state)
        recording, static, result = self.graphs[index.shape]
        static.copy_(index)
        recording.replay()
        return result


@pytest.fixture
def replaying(monkeypatch) -> None:
    """Engines capture their steps, as on a GPU."""
    monkeypatch.setattr(Engine, "_new_graph", lambda engine: Replayed(engine))


@pytest.mark.parametrize(("method", "order"), METHODS)
def test_a_captured_step_is_judged(method: str, order: int | None, replaying) -> None:
    engine, expected = judged(method, order)
    assert wrong(right.checks(engine, expected, Variant(captured=True))) == set()
    engine, _ = judged(method, order)
    assert wrong(right.checks(engine, spoil_gradient(engine, expected), Variant(captured=True))) == {"change"}


def test_a_step_that_is_not_captured_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="not captured"):
        right.checks(*judged("vae", None), Variant(captured=True))


@pytest.mark.parametrize(("method", "order"), METHODS)
def test_replayed_streams_are_judged(method: str, order: int | None, replaying, monkeypatch) -> None:
    run = models.spec(method, order, dim=TINY.dim, batch_size=TINY.batch)
    assert wrong(right.replay_checks(run, TINY, CPU)) == set()
    # a replay that repeats the noise of the capture
    monkeypatch.setattr(Recording, "replay", repeat_noise(Recording.replay))
    assert wrong(right.replay_checks(run, TINY, CPU)) == {"losses,", "generators"}


def repeat_noise(replay):
    def repeated(self) -> None:
        self.calls = [call for call in self.calls if call[0].overloadpacket is not torch.ops.aten.normal_]
        replay(self)

    return repeated


@needs_cuda
@pytest.mark.parametrize("variant", right.VARIANTS["cuda"], ids=str)
@pytest.mark.parametrize(("method", "order"), METHODS)
def test_a_gpus_step_is_right(method: str, order: int | None, variant: Variant) -> None:
    assert wrong(right.step_checks(method, order, variant, Size(), torch.device("cuda"))) == set()


# ---------------------------------------------------------------------- graph
@needs_cuda
def test_a_gpu_works_after_a_failed_capture() -> None:
    assert wrong(graph.after_failed_capture(torch.device("cuda"))) == set()


@pytest.mark.parametrize("name", graph.OPERATIONS)
def test_operations_solve_their_equations(name: str) -> None:
    a = graph.positive_definite((2, 5, 5))
    found, ones = graph.OPERATIONS[name](a), torch.ones(2, 5, 1, dtype=a.dtype)
    product, wanted = {
        "cholesky_ex": (found @ found.mT, a),
        "solve_triangular": (a.tril() @ found, ones),
        "cholesky_solve": (a.tril() @ a.tril().mT @ found, ones),
    }[name]
    torch.testing.assert_close(product, wanted, rtol=1e-8, atol=1e-8)


# ---------------------------------------------------------------------- kernels
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_recorded_layers_are_those_of_the_tables(shape: tuple[int, int, int]) -> None:
    sides, channels, _ = nets.convolutions(shape)
    fastest, forward = layers.fastest, nets.Network.forward
    found = kernels.recorded(2, 5, shape)
    assert (layers.fastest, nets.Network.forward) == (fastest, forward)
    down, up = found[: len(channels)], found[len(channels) :]
    for layer, side, (inputs, outputs) in zip(down, sides, pairwise([shape[0], *channels]), strict=False):
        assert layer.x == (2, 5, inputs, side, side) and layer.weight == (2, outputs, inputs, 4, 4)
        assert layer.candidates == layers.CONVOLUTIONS and layer.extra == () and layer.outputs == outputs
    wide = [64, *channels[-2::-1], shape[0]]
    for layer, (side, larger), (inputs, outputs) in zip(up, pairwise(sides[::-1]), pairwise(wide), strict=True):
        assert layer.x == (2, 5, inputs, side, side) and layer.weight == (2, inputs, outputs, 4, 4)
        assert layer.candidates == layers.TRANSPOSED_CONVOLUTIONS and layer.outputs == outputs
        assert layer.extra == (larger - 2 * side,)
    assert [layer.x_learns for layer in found] == [False] + [True] * (len(found) - 1), "images need no gradient"
    assert all(layer.weight_learns for layer in found)


def test_every_kernel_that_runs_on_a_cpu_is_timed() -> None:
    layer = kernels.recorded(2, 2)[-1]
    found = kernels.times(layer, CPU)
    assert [n.what for n in found] == ["transposed_grouped", "transposed_one_by_one", "transposed_product"]
    assert all(n.value > 0 and n.unit == "ms" for n in found)


@needs_cuda
def test_a_gpus_choice_is_marked() -> None:
    found = kernels.times(kernels.recorded(2, 2)[0], torch.device("cuda"))
    names = [n.what for n in found]
    assert sum("(chosen), with a head start" in name for name in names) == 1
    times = {n.what: n.value for n in found if n.what.endswith("with a head start")}
    assert len(times) >= 3


# ---------------------------------------------------------------------- epoch
@pytest.mark.parametrize(("order", "steps", "shares"), [(0.5, 8.0, (80, 5, 15)), (2.0, 18.0, (90, 10, 0))])
def test_shares_of_an_epoch(order: float, steps: float, shares: tuple[float, ...]) -> None:
    """Also if the parts took longer than the whole, by a GPU's clock."""
    found = epoch.entries(epoch.Seconds(epoch=10, order=order, steps=steps, validation=3, checkpoint=1), 900)
    assert [n.value for n in found[1:4]] == pytest.approx(shares)
    assert found[0].value == 10 and [n.value for n in found[-2:]] == [3, 1]
    assert found[4].value == pytest.approx(3 * found[5].value)


def test_an_epoch_is_measured_in_its_parts() -> None:
    run = models.spec("vae", dim=2, batch_size=8)
    engine = epoch._array(run, 2, CPU, 20)
    assert len(engine.train_index[0]) == 20 and len(engine.val_index[0]) == 2
    found = epoch.parts(engine)
    assert engine.epoch == 1 and int(engine.iteration) == 3
    assert 0 < found.order < found.steps < found.order + found.steps <= found.epoch
    assert found.validation > 0 and found.checkpoint > 0
    assert not engine.history.val_elbo[0].isnan().any()


def test_a_watch_adds_up_its_calls() -> None:
    watch = epoch.Watch(lambda x: x + 1, CPU)
    assert watch.seconds() == 0
    assert watch(torch.ones(())).item() == 2
    once = watch.seconds()
    watch(torch.ones(()))
    assert 0 < once < watch.seconds()


# ---------------------------------------------------------------------- packing
def test_rates_and_their_ratio() -> None:
    together = [packing.Count(80, 6, 5.0), packing.Count(160, 6, 10.0)]
    assert [n.value for n in packing.entries(packing.Count(100, 6, 5.0), together)] == [120, 192, 1.6]


FAKE = """
import json, os, sys
steps, path = sys.argv[1:]
open(path, "w").write(str(os.getpid()))
print("warm", flush=True)
for line in sys.stdin:
    print(json.dumps({"steps": int(steps), "members": 2, "seconds": float(line)}), flush=True)
"""


def fake(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


def is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_are_measured_alone_and_together(tmp_path) -> None:
    paths = [tmp_path / name for name in "ab"]
    found = packing.packed([fake(FAKE, 10, paths[0]), fake(FAKE, 30, paths[1])], 0.5)
    assert [n.value for n in found] == [40, 160, 4], "the first alone, then both"
    assert not any(is_alive(path.read_text()) for path in paths)


def test_a_process_that_dies_is_reported_and_the_others_end(tmp_path) -> None:
    path = tmp_path / "pid"
    dies = fake("import sys; print('warm', flush=True); sys.stdin.readline(); sys.exit('first\\nno such device')")
    with pytest.raises(RuntimeError, match="status 1: no such device"):
        packing.packed([dies, fake(FAKE, 1, path)], 0.5)
    assert not is_alive(path.read_text())


def test_a_process_that_hangs_is_ended(tmp_path) -> None:
    path = tmp_path / "pid"
    hangs = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    with pytest.raises(RuntimeError, match="longer than 1 s"):
        packing.packed([fake(hangs, path)], 0.5, limit_s=1)
    assert not is_alive(path.read_text())


def test_a_training_process_counts_its_steps(monkeypatch, capsys) -> None:
    monkeypatch.setattr(packing_child, "prepare", lambda device: None)  # the settings of a whole process
    monkeypatch.setattr(sys, "stdin", io.StringIO("0.01\n0.02\n"))
    packing_child.main("cpu", "1")
    warm, *counts = capsys.readouterr().out.splitlines()
    assert warm == "warm" and len(counts) == 2
    for line, seconds in zip(counts, (0.01, 0.02), strict=True):
        count = packing.Count(**json.loads(line))
        assert count.members == 1 and count.steps >= 1 and count.seconds >= seconds


def test_steps_are_counted() -> None:
    calls: list[None] = []
    found = packing_child.trained(lambda: calls.append(None), 0.001, CPU)
    assert found["steps"] == len(calls) > 0
