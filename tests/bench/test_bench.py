"""Benchmarks: rivals compute the same, FLOPs are counted correctly, and each command writes its rows."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import flops, growth, harness, inference, iwae, models, roofline, steps, table, training
from bench.child import Child
from bench.harness import DifferentError, check_close, compare, timed
from rme.config import RunSpec
from tune.cost import hours
from tune.cost.measure import array_engine
from tune.plan.grid import load
from tune.plan.trials import with_parents

CPU = torch.device("cpu")
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
PLAIN = [("vae", None), ("sa", 2), ("hf", 2), ("iaf", 2), ("rme", 2), ("rme", 3)]


@pytest.fixture(autouse=True)
def argument_checks_restored():
    """`harness.prepare` turns off the argument checks of torch.distributions for the whole process."""
    before = torch.distributions.Distribution._validate_args
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


# ---------------------------------------------------------------------- timing
def test_ratio_and_spread_are_over_paired_rounds() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.uniform(1, 2, 15), rng.uniform(3, 9, 15)
    row = harness.row("a", "b", ours.tolist(), theirs.tolist(), roofline_s=0.5)
    low, middle, high = np.quantile(theirs / ours, [0.25, 0.5, 0.75])
    assert row.ratio == pytest.approx(middle, rel=1e-12)
    assert row.spread == pytest.approx((high - low) / middle, rel=1e-12)
    assert row.median_ms == pytest.approx(1e3 * np.median(ours), rel=1e-12)
    assert row.rival_median_ms == pytest.approx(1e3 * np.median(theirs), rel=1e-12)
    assert row.roofline == pytest.approx(0.5 / np.median(ours), rel=1e-12)
    # not the ratio of the medians: a slow minute that hits both does not change the ratio of a pair
    assert row.ratio != pytest.approx(row.rival_median_ms / row.median_ms, rel=1e-6)


def test_rivals_are_interleaved_in_alternating_order() -> None:
    called: list[str] = []

    def timer(name: str, seconds: float) -> harness.Timer:
        return lambda: called.append(name) or seconds

    rows = compare("a", timer("a", 1.0), {"b": timer("b", 2.0), "c": timer("c", 4.0)}, rounds=3, warm_ups=1)
    assert called == [*"abc", *"abc", *"cba", *"abc"]
    assert [(r.name, r.rival, r.ratio, r.spread) for r in rows] == [("a", "b", 2.0, 0.0), ("a", "c", 4.0, 0.0)]


def test_rivals_that_differ_are_not_timed() -> None:
    def never() -> float:
        raise AssertionError("timed")

    def equal() -> None:
        check_close("losses", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))

    with pytest.raises(DifferentError, match=r"losses: 2 against 2\.5"):
        compare("a", never, {"b": never}, rounds=3, equal=equal)


@pytest.mark.parametrize("theirs", [[1.0, math.nan], [1.0], [1.0, 2.01]])
def test_check_close_raises_on_a_difference(theirs: list[float]) -> None:
    check_close("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.00001]))
    with pytest.raises(DifferentError):
        check_close("x", torch.tensor([1.0, 2.0]), torch.tensor(theirs))


def test_on_a_cpu_the_time_is_cpu_time() -> None:
    assert timed(lambda: time.sleep(0.1), CPU, sample_s=0.0)() < 0.05
    assert timed(lambda: sum(range(3_000_000)), CPU, sample_s=0.0)() > 0.005


# ---------------------------------------------------------------------- command line
def test_methods_and_members_on_the_command_line() -> None:
    assert harness.parse_methods("vae,rme:5,me") == (
        ("vae", None), ("rme", 5), ("me", 2), ("me", 3), ("me", 4), ("me", 5),
    )  # fmt: skip
    assert harness.parse_members("1,2,30") == (1, 2, 30)


@pytest.mark.parametrize(("argv", "named"), [
    (["--methods", "rme:7"], "rme:7"),
    (["--methods", "vea"], "vea"),
    (["--methods", "vae:1"], "vae:1"),
    (["--members", "0"], "--members 0"),
    (["--dim", "0"], "--dim 0"),
    (["--dataset", "minst"], "minst"),
    (["--device", "tpu"], "tpu"),
    (["--json", "no/such/folder/x.json"], "no/such/folder"),
])  # fmt: skip
def test_an_invalid_option_exits_with_status_2(argv: list[str], named: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        harness.parse("", methods="vae", members="1", dim=4, argv=argv)
    assert stop.value.code == 2 and named in capsys.readouterr().err


# ---------------------------------------------------------------------- rivals
def both(method: str, order: int | None, **fields) -> tuple[steps.EngineStep, steps.PlainStep]:
    run = models.spec(method, order, dim=4, batch_size=8, precision="float64", **fields)
    ours = steps.EngineStep(run, MNIST, CPU)
    return ours, steps.PlainStep(ours.engine)


@pytest.mark.parametrize(("method", "order"), PLAIN)
def test_plain_steps_equal_the_engines(method: str, order: int | None) -> None:
    steps.check_same_steps(*both(method, order))


@pytest.mark.parametrize(("method", "order"), PLAIN)
def test_different_parameters_are_detected(method: str, order: int | None) -> None:
    ours, theirs = both(method, order)
    with torch.no_grad():
        next(p for p in theirs.model.parameters() if p.dim() == 4)[0] += 1e-3
    with pytest.raises(DifferentError, match="losses of step 0"):
        steps.check_same_steps(ours, theirs)


def test_a_different_learning_rate_is_detected() -> None:
    ours, theirs = both("vae", None)
    ours.engine.optimisers[0].rate = 1e-4
    with pytest.raises(DifferentError, match="the first step of"):
        steps.check_same_steps(ours, theirs)


def test_members_of_an_array_equal_single_engines() -> None:
    run = models.spec("hf", 2, dim=3, batch_size=8, precision="float64")
    together = steps.EngineStep(run, MNIST, CPU, members=2)()
    alone = [steps.EngineStep(run, MNIST, CPU, first=i)() for i in range(2)]
    check_close("losses", torch.cat(alone, 1), together, rtol=1e-12)
    assert not torch.allclose(alone[0], alone[1])


def test_a_rival_in_a_separate_process_computes_the_same() -> None:
    arguments = {"method": "vae", "order": None, "dataset": "mnist", "dim": 2}
    with Child("bench.steps", "plain_step", arguments, keep_freed_memory=False) as child:
        check_close("losses", steps.engine_step(**arguments)()[:, 0], torch.tensor(child.first), rtol=1e-5)
        assert 0 < child() < 60


def tiny_settings(rounds: int = 2) -> harness.Settings:
    return replace(harness.quick_settings(CPU), dim=3, rounds=rounds)


def test_an_array_is_timed_against_one_model() -> None:
    run = models.spec("vae", dim=3, batch_size=8)
    rows = training.array_rows(run, 3, tiny_settings(), roofline_s=1e-9, plain=True)
    assert [(row.name, row.rival) for row in rows] == [
        ("VAE, 3 together", "one at a time, eager"), ("VAE, 3 together", "one at a time, plain eager"),
    ]  # fmt: skip
    assert all(row.median_ms > 0 and row.roofline == pytest.approx(1e-6 / row.median_ms) for row in rows)


@pytest.mark.parametrize("member", [0, 2])
def test_a_member_that_differs_from_the_model_alone_is_detected(member: int, monkeypatch) -> None:
    class Wrong(steps.EngineStep):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            if len(self.engine.members) > 1:
                self.engine.method.decoder.logvar[member] += 1e-3

    monkeypatch.setattr(training, "EngineStep", Wrong)
    with pytest.raises(DifferentError, match="losses"):
        training.array_rows(models.spec("vae", dim=3, batch_size=8), 3, tiny_settings())


# ---------------------------------------------------------------------- operations
def counted(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


# SVI steps only on even image sides: of odd ones torch counts the double backward at the padded size
@pytest.mark.parametrize(("method", "order", "shape"), [
    ("vae", None, MNIST), ("vae", None, CIFAR), ("hf", 4, MNIST), ("iaf", 2, MNIST), ("sa", 1, CIFAR), ("sa", 2, CIFAR),
])  # fmt: skip
def test_flops_equal_torchs_count(method: str, order: int | None, shape) -> None:
    run = models.spec(method, order, dim=5, batch_size=4, dataset="mnist" if shape == MNIST else "cifar10")
    plain = steps.PlainStep(array_engine(run, shape, CPU))
    assert flops.step_cost(run, shape).flops == pytest.approx(counted(plain), rel=2e-4)


@pytest.mark.parametrize("order", [2, 4])
def test_flops_of_the_pseudocode_are_ours_plus_recomputation(order: int) -> None:
    run = models.spec("rme", order, dim=5, batch_size=4)
    parts = flops._Parts(run, MNIST)
    encoder = parts.forward(parts.encoder(parts.model.components[0])).flops
    impact = parts.forward(flops.layers([parts.model.impacts[0].mlp], MNIST)).flops
    # Q_{m-1} for q_m and Q_m for eps_m: we cache their frozen parts
    again = sum((2 * m + 1) * encoder + 2 * (m - 1) * impact for m in range(1, order))
    plain = steps.PlainStep(array_engine(run, MNIST, CPU))
    assert flops.step_cost(run, MNIST).flops + again == counted(plain)


@pytest.mark.parametrize(("method", "order"), [("me", 3), ("vlae", 1), ("vlae", 2)])
def test_flops_are_close_to_the_engines(method: str, order: int) -> None:
    run = models.spec(method, order, dim=5, batch_size=4)
    assert flops.step_cost(run, MNIST).flops == pytest.approx(counted(steps.EngineStep(run, MNIST, CPU)), rel=0.05)


def test_memory_traffic_of_a_dense_layer() -> None:
    size = flops.LayerSize(flops=2 * 3 * 5, inputs=3, outputs=5, weights=15)
    assert size.once(7) == flops.Cost(7 * 30, 4 * (7 * 8 + 15))
    # weights trained, no gradient of the input: two passes, forward and the weights' gradient
    assert flops.passes([size], 7, weights=True, inputs=False) == size.once(7) * 2


# ---------------------------------------------------------------------- commands
def test_the_hours_of_a_data_set_are_those_of_its_steps(tmp_path, monkeypatch) -> None:
    """With steps of 10 ms and scores that take no time: all runs x restarts x epochs x batches of 128 of 54,000."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hours, "step_seconds", named("step", 0.01))
    monkeypatch.setattr(hours, "image_seconds", named("image", 0.0))
    runs = [run for run in with_parents(load("paper").runs) if run.dataset == "mnist"]
    trained = sum(run.restarts * run.training_epochs for run in runs if run.method_class.trains)
    assert growth.paper_hours(CPU, "mnist") == pytest.approx(trained * 422 * 0.01 / 3600, rel=1e-9)


def test_an_interrupted_estimate_keeps_its_measured_times(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = [[RunSpec(method="vae", dataset="mnist", dim=dim, epochs=1)] for dim in (2,)]

    def stop(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(hours, "step_seconds", named("step", 0.25))
    monkeypatch.setattr(hours, "image_seconds", stop)
    with pytest.raises(KeyboardInterrupt):
        hours.hours(runs, CPU)
    assert set(hours.StepTimes(CPU).costs.values()) == {0.25}


def named(name: str, seconds: float):
    def measure(specs, *_: object) -> list[float]:
        return [seconds] * len(specs)

    measure.__name__ = name
    return measure


def test_a_series_is_compared_with_its_first_case(monkeypatch) -> None:
    run = models.spec("vae", dim=2)
    seconds = {1: 2.0, 4: 2.0, 5: 20.0}
    monkeypatch.setattr(growth, "EngineStep", lambda run, shape, device, members: members)
    monkeypatch.setattr(growth, "timed", lambda members, device: lambda: seconds[members])
    rows = growth.growth_rows(tiny_settings(), {"one": (run, 1), "four": (run, 4), "five": (run, 5)})
    assert [(r.name, r.rival, r.median_ms, r.rival_median_ms, r.ratio) for r in rows] == [
        ("four", "one", 500.0, 2000.0, 4.0), ("five", "one", 4000.0, 2000.0, 0.5),
    ]  # fmt: skip


TINY = ["--device", "cpu", "--dim", "2", "--rounds", "2", "--quick"]


def check_result(result: dict) -> None:
    assert set(result) >= {"device", "torch", "rows"} and result["torch"] == torch.__version__
    assert result["rows"]
    for row in result["rows"]:
        assert list(row) == ["name", "rival", "median_ms", "rival_median_ms", "ratio", "spread", "roofline"]
        assert row["median_ms"] > 0 and row["rival_median_ms"] > 0 and row["ratio"] > 0 and row["spread"] >= 0
        assert row["roofline"] is None or row["roofline"] > 0
    assert "\n".join(table.markdown(result)).count("\n| ") >= len(result["rows"])


@pytest.mark.parametrize(("module", "options", "expected"), [
    (inference, ["--methods", "vae,iaf:1,rme:2"], 6),
    (roofline, ["--members", "1,2"], 2),
])  # fmt: skip
def test_commands_write_rows(module, options: list[str], expected: int, tmp_path, capsys) -> None:
    path = tmp_path / "rows.json"
    harness.main(module.rows, "", methods="vae", argv=[*TINY, *options, "--json", str(path)])
    result = json.loads(path.read_text())
    check_result(result)
    assert len(result["rows"]) == expected
    assert set(result) == {"device", "torch", "rows"}


def test_iwae_of_the_plain_loop_equals_the_engines(tmp_path, capsys) -> None:
    settings, _ = harness.parse("", methods="vae", members="1", dim=3, argv=["--device", "cpu"])
    ours = iwae.Scoring(models.spec("vae", dim=3), settings, images=70, samples=5)  # more than `evaluate.BLOCK`
    theirs = iwae.PlainScoring(ours)
    check_close("nats", ours()[0], theirs(), rtol=0, atol=iwae.NATS)
    with torch.no_grad():
        theirs.model.logvar += 1e-4
    with pytest.raises(DifferentError):
        check_close("nats", ours()[0], theirs(), rtol=0, atol=iwae.NATS)


def test_a_command_exits_if_rivals_differ(monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise DifferentError("losses: 1 against 2")

    monkeypatch.setattr(training, "check_same_steps", fail)
    with pytest.raises(SystemExit) as stop:
        harness.main(training.rows, "", methods="vae", argv=TINY)
    assert "losses: 1 against 2" in str(stop.value.code)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "options"), [
    ("training", ["--methods", "vae,rme:2", "--members", "2"]),
    ("inference", []),
    ("iwae", ["--images", "8", "--samples", "10", "--members", "1,2"]),
    ("roofline", ["--methods", "vae,vlae:1,me:2"]),
    ("growth", []),
])  # fmt: skip
@pytest.mark.long(14)
@pytest.mark.parametrize("bare", [False, True])
def test_every_command_also_runs_without_the_sweeps_packages(command, options, bare, tmp_path) -> None:
    path = tmp_path / "rows.json"
    missing = ["rich", "ray", "mlflow", "pandas", "optuna", "torchvision", "matplotlib", "jinja2"]
    start = "import runpy, sys\n"
    start += "".join(f"sys.modules[{name!r}] = None\n" for name in missing if bare)
    start += f"runpy.run_module('bench.{command}', run_name='__main__', alter_sys=True)"
    argv = [sys.executable, "-c", start, *TINY, *options, "--json", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    check_result(result)
    if command == "growth":
        assert all(0 < m["training_mib"] <= m["iwae_mib"] for m in result["memory"])
