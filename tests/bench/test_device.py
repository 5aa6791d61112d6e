"""bench.device: a stage that breaks or hangs costs no other, two runs add up, and the paragraph is what was measured.

The stages here are modules written to a temporary package, so that they may break as they like.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import device, stage, stage_file
from bench.device import Outcome, Run, Stage
from bench.stages.case import Case, Check, Number
from bench.summary import paragraph
from tests import ROOT

CPU = torch.device("cpu")

START = """
import os, signal, subprocess, sys, time
from pathlib import Path
from bench.harness import Row
from bench.stages.case import Case, Check, Number

def case(name, *found, then=lambda: None):
    def measure():
        with open(Path(__file__).with_suffix(".calls"), "a") as calls:
            print(name, file=calls)
        then()
        return found
    return Case(name, measure)
"""

FAKES = {
    "good": """
def cases(device):
    yield case("compare", Row("ours", "theirs", 2.0, 6.0, 3.0, 0.1))
    yield case("check", Check("equal", 0.0, 0.0), Number("all", 5.0, "h"))
""",
    "raises": """
def cases(device):
    def fail():
        raise ValueError("no such layer")
    yield case("before", Number("x", 1.0, "ms"))
    yield case("breaks", then=fail)
    yield case("after", Number("y", 2.0, "ms"))
""",
    "killed": """
def cases(device):
    yield case("before", Number("x", 1.0, "ms"))
    def die():
        print("the last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    yield case("dies", then=die)
    yield case("after", Number("y", 2.0, "ms"))
""",
    "hangs": """
def cases(device):
    def hang():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(__file__).with_suffix(".pid").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
    yield case("before", Number("x", 1.0, "ms"))
    yield case("stuck", then=hang)
""",
}


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    """The folder of the package of fake stages, which the processes of stages can import."""
    root = tmp_path_factory.mktemp("fakes")
    package = root / "fake_stages"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in FAKES.items():
        (package / f"{name}.py").write_text(START + text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root))
        patch.setattr(device, "GRACE_S", 0.2)
        yield package


class Session:
    """Runs the command with fake stages; its clock calls `on_stuck` once the stage `hangs` is stuck."""

    def __init__(self, package: Path, out: Path) -> None:
        self.package, self.out = package, out
        self.text = ""
        self.later = 0.0

    def run(self, names: Sequence[str], *options: str, on_stuck: Callable[[], None] = lambda: None) -> int:
        stages = [Stage(name, f"question of {name}", module=f"fake_stages.{name}") for name in names]
        pids = self.package / "hangs.pid"
        pids.unlink(missing_ok=True)

        seen = ""

        def clock() -> float:
            nonlocal seen
            stuck = pids.read_text() if pids.exists() else ""
            if " " in stuck and stuck != seen:
                seen = stuck
                on_stuck()
            return time.monotonic() + self.later

        printed = io.StringIO()
        with redirect_stdout(printed):
            status = device.main(
                ["--device", "cpu", "--minutes", "60", "--out", str(self.out), *options], stages, clock=clock
            )
        self.text = printed.getvalue()
        return status

    def past_its_limit(self) -> None:
        self.later += 3000

    def results(self, name: str) -> dict[str, Any]:
        return json.loads((self.out / f"{name}.json").read_text())

    def line(self, name: str) -> str:
        """What the table of stages says of a stage."""
        (line,) = (line for line in self.text.splitlines() if f"question of {name}" in line and "│" in line)
        return line

    def calls(self, name: str) -> list[str]:
        return (self.package / f"{name}.calls").read_text().split()

    def stuck_processes(self) -> list[int]:
        """Those of the stage `hangs` that still run."""
        return [pid for pid in map(int, (self.package / "hangs.pid").read_text().split()) if runs(pid)]


def runs(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


NAMES = ("raises", "killed", "hangs", "good")


@pytest.fixture(scope="module")
def first_run(fakes, tmp_path_factory):
    session = Session(fakes, tmp_path_factory.mktemp("results"))
    status = session.run(NAMES, on_stuck=session.past_its_limit)
    return session, status, {name: session.results(name) for name in NAMES}


@pytest.mark.long
def test_a_stage_that_breaks_or_hangs_costs_no_other(first_run) -> None:
    _, status, results = first_run
    assert status == 1
    assert set(results["raises"]["cases"]) == {"before", "breaks", "after"}
    assert results["raises"]["cases"]["breaks"]["error"] == "ValueError: no such layer"
    assert set(results["killed"]["cases"]) == {"before"} and results["killed"]["interrupted"] == ["dies"]
    assert set(results["hangs"]["cases"]) == {"before"} and results["hangs"]["interrupted"] == ["stuck"]
    assert results["good"]["complete"] and not any(results[name]["complete"] for name in NAMES[:3])
    assert results["good"]["cases"]["compare"]["rows"][0]["ratio"] == 3.0
    assert results["good"]["cases"]["check"]["checks"][0]["right"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_at_its_limit_a_stage_ends_with_all_its_processes(first_run) -> None:
    assert first_run[0].stuck_processes() == []


def test_the_table_says_how_each_stage_ended(first_run) -> None:
    session, _, _ = first_run
    assert "done" in session.line("raises") and "2 of 3, 1 raised an error" in session.line("raises")
    assert "failed in dies, SIGKILL: the last words" in session.line("killed") and "1 of 3" in session.line("killed")
    assert "out of time in stuck" in session.line("hangs") and "1 of 2" in session.line("hangs")
    assert "done" in session.line("good") and "2 of 2" in session.line("good")
    assert "ValueError: no such layer" in session.text and "1 of 1 checks right" in session.text


@pytest.mark.long
def test_a_second_run_measures_only_what_is_missing(fakes, first_run) -> None:
    session, _, _ = first_run
    assert session.run(NAMES, "--stages", "good,raises,killed") == 1
    assert session.calls("good") == ["compare", "check"], "not measured again"
    assert session.calls("raises") == ["before", "breaks", "after", "breaks"], "only what raised"
    assert session.calls("killed") == ["before", "dies", "after", "dies"], "what died comes last"
    assert set(session.results("killed")["cases"]) == {"before", "after"}
    assert "done in an earlier run" in session.line("good") and "not requested" in session.line("hangs")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_run_shows_what_it_has(number: int, status: int, fakes, tmp_path) -> None:
    before = signal.getsignal(number)
    session = Session(fakes, tmp_path)
    assert session.run(["hangs", "good"], on_stuck=lambda: os.kill(os.getpid(), number)) == status
    assert "interrupted" in session.line("hangs") and "1 of 2" in session.line("hangs")
    assert "not reached" in session.line("good")
    assert "Correctness: not measured" in session.text
    assert set(session.results("hangs")["cases"]) == {"before"}
    assert session.stuck_processes() == [] and signal.getsignal(number) is before


# ---------------------------------------------------------------------- time
def limits(
    seconds: float, weights: Sequence[float], used: Sequence[float], monkeypatch, tmp_path, more: str = ""
) -> dict[str, list[float]]:
    """The limits of each stage, which uses `used` seconds; the stage `more` runs out of time."""
    now = 0.0
    found: dict[str, list[float]] = {str(i): [] for i in range(len(weights))}

    def run_stage(self: Run, stage: Stage, limit: float, clock: Callable[[], float]) -> Outcome:
        nonlocal now
        found[stage.name].append(limit)
        now += used[int(stage.name)]
        return Outcome("done", used[int(stage.name)], out_of_time=stage.name == more)

    monkeypatch.setattr(Run, "_run", run_stage)
    run = Run(CPU, tmp_path)
    run.measure([Stage(name, "", weight) for name, weight in zip(found, weights, strict=True)], seconds, lambda: now)
    assert {name for name, one in run.outcomes.items() if one.text == "not reached"} == {
        name for name, each in found.items() if not each
    }
    return found


def test_time_that_a_stage_leaves_goes_to_later_stages(monkeypatch, tmp_path, capsys) -> None:
    assert limits(120, (3, 1, 2), (10, 50, 0), monkeypatch, tmp_path) == {"0": [60], "1": [110 / 3], "2": [60]}


def test_time_left_at_the_end_goes_to_a_stage_that_needs_more(monkeypatch, tmp_path, capsys) -> None:
    assert limits(120, (1, 2), (40, 10), monkeypatch, tmp_path, more="0") == {"0": [40, 70], "1": [80]}


def test_a_stage_without_time_is_not_reached(monkeypatch, tmp_path, capsys) -> None:
    assert limits(120, (3, 1, 2), (117, 0, 0), monkeypatch, tmp_path) == {"0": [60], "1": [], "2": []}


# ---------------------------------------------------------------------- options
@pytest.mark.parametrize(("options", "named"), [
    (["--minutes", "0"], "--minutes 0"),
    (["--minutes", "nan"], "--minutes nan"),
    (["--device", "tpu"], "tpu"),
    (["--stages", "right,rihgt"], "rihgt"),
    (["--stages", ""], "--stages"),
])  # fmt: skip
def test_an_invalid_option_is_named_in_one_line(options: list[str], named: str, tmp_path, capsys) -> None:
    assert device.main(["--out", str(tmp_path), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert device.main(["--device", "cpu", "--out", str(tmp_path / "file" / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file" / "out") in line


@pytest.mark.parametrize(("entry", "value"), [("device", "GPU X"), ("code", "0123"), ("torch", "1.0")])
def test_results_of_another_device_or_code_are_refused(entry: str, value: str, tmp_path, capsys) -> None:
    path = tmp_path / "speed.json"
    text = json.dumps({**stage_file.new("speed", CPU), entry: value})
    path.write_text(text)
    assert device.main(["--device", "cpu", "--out", str(tmp_path), "--stages", "right"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and f"its {entry} is {value}" in line and "--out" in line
    assert path.read_text() == text


def test_a_damaged_file_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "right.json").write_text('{"stage": ')
    assert device.main(["--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "right.json" in capsys.readouterr().err


# ---------------------------------------------------------------------- a stage's process
def case(name: str, *found: Any, then: Callable[[], None] = lambda: None) -> Case:
    def measure() -> Sequence[Any]:
        then()
        return found

    return Case(name, measure)


def measured(cases: Sequence[Case], path: Path, until: float = float("inf")) -> dict[str, Any]:
    content = stage_file.load_same(path, CPU) or stage_file.new("fake", CPU)
    stage.run(cases, content, path, CPU, until)
    return json.loads(path.read_text())


def test_what_fell_back_is_noted(tmp_path) -> None:
    def fall_back() -> None:
        logging.getLogger("rme.cuda_graph").warning("not captured:\n%s", "why")
        logging.getLogger("rme.cuda_graph").info("captured")
        logging.getLogger("rme.kernels").info("the kernel product failed")
        logging.getLogger("rme.kernels").info("the kernel product failed")
        logging.getLogger("rme.kernels").debug("timed")
        logging.getLogger("rme.other").warning("unrelated")

    path = tmp_path / "fake.json"
    cases = [case("one", then=fall_back), case("two")]
    expected = [{"case": "one", "why": why} for why in ("not captured: why", "the kernel product failed")]
    assert measured(cases, path)["fell_back"] == expected
    assert measured(cases, path)["fell_back"] == expected, "nothing is measured again"
    assert logging.getLogger("rme.kernels").level == logging.NOTSET and not logging.getLogger("rme.kernels").handlers


def test_without_time_no_case_begins(tmp_path) -> None:
    found = measured([case("one", Number("x", 1.0, "ms"))], tmp_path / "fake.json", until=time.monotonic())
    assert found["planned"] == ["one"] and found["cases"] == {} and not found["complete"]


def test_cases_are_stored_in_the_order_of_their_importance(tmp_path) -> None:
    path = tmp_path / "fake.json"
    measured([case("b"), case("c")], path)
    assert list(measured([case("a"), case("b"), case("c")], path)["cases"]) == ["a", "b", "c"]


def test_an_entry_of_another_kind_is_an_error(tmp_path) -> None:
    assert "str" in measured([case("one", "5 ms")], tmp_path / "fake.json")["cases"]["one"]["error"]


def test_two_cases_of_one_name_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="one"):
        measured([case("one"), case("one")], tmp_path / "fake.json")


def test_a_lost_gpu_ends_the_process(tmp_path) -> None:
    def lose() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    path = tmp_path / "fake.json"
    with pytest.raises(RuntimeError, match="illegal"):
        measured([case("one"), case("two", then=lose), case("three")], path)
    found = json.loads(path.read_text())
    assert list(found["cases"]) == ["one"] and found["interrupted"] == ["two"]


@pytest.mark.parametrize(("difference", "right"), [(1e-3, True), (2e-3, False), (float("nan"), False)])
def test_a_check_is_stored_with_its_verdict(difference: float, right: bool, tmp_path) -> None:
    found = measured([case("one", Check("x", difference, 1e-3))], tmp_path / "fake.json")
    assert found["cases"]["one"]["checks"][0]["right"] is right


BARE = """
import importlib, json, sys
sys.modules.update(dict.fromkeys(["rich", "ray", "mlflow", "pandas", "optuna", "torchvision", "matplotlib", "jinja2"]))
import torch, bench.device, bench.stage
modules = {one.name: importlib.import_module(f"bench.stages.{one.name}") for one in bench.device.STAGES}
print(json.dumps({name: [c.name for c in module.cases(torch.device("cpu"))] for name, module in modules.items()}))
"""


def test_every_stage_has_cases_without_the_sweeps_packages() -> None:
    done = subprocess.run([sys.executable, "-c", BARE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout)
    assert list(cases)[:3] == ["right", "graph", "speed"] and len(cases) == 12
    assert all(len(names) == len(set(names)) for names in cases.values())
    assert sum(map(bool, cases.values())) >= 11, "on a CPU one stage at most, CUDA graphs, has no cases"


# ---------------------------------------------------------------------- paragraph
def content(**cases: dict[str, Any]) -> dict[str, Any]:
    empty = {"rows": [], "checks": [], "numbers": [], "error": None}
    return {
        "device": "GPU X", "torch": "2.1", "complete": True, "fell_back": [],
        "cases": {name: {**empty, **found} for name, found in cases.items()},
    }  # fmt: skip


def row(name: str, rival: str, ratio: float, roofline: float | None = None) -> dict[str, Any]:
    return {"name": name, "rival": rival, "ratio": ratio, "roofline": roofline}


def test_the_paragraph_is_computed_from_the_files() -> None:
    hours = [{"what": name, "value": value, "unit": "h"} for name, value in (("MNIST", 1000.0), ("SVHN", 600.0))]
    stages = {
        "right": content(
            vae={"checks": [{"what": "loss", "right": True}, {"what": "step of sa", "right": False}]},
            rme={"checks": [{"what": "score", "right": True}], "error": "ValueError: no"},
        ),
        "speed": content(
            a={"rows": [row("VAE, 30 together", "eager", 19.84), row("VAE, 30 together", "as a graph", 3.2)]},
            b={"rows": [row("RME(5), 8 together", "eager", 15.0)]},
            c={"rows": [row("VAE, 64 together", "eager", 77.0)]},
        ),
        "roofline": content(a={"rows": [row("VAE step, 30 together", "its roofline", 0.08, 0.0812)]}),
        "hours": content(a={"numbers": hours[:1]}, b={"numbers": hours[1:]}),
    }
    stages["speed"]["fell_back"] = [{"case": "a", "why": "the kernel product failed"}]
    text = paragraph(stages)
    assert "GPU X, torch 2.1" in text
    assert "2 of 3 checks right" in text and "step of sa" in text and "rme" in text
    assert "VAE, 30 together, 19.8 times eager and 3.2 times as a graph" in text
    assert "RME(5), 8 together, 15 times" in text and "77" not in text
    assert "8%" in text
    assert "1,600 on 1, 200 on 8, 25 on 64" in text
    assert "the kernel product failed (in speed: a)" in text


def test_what_was_not_measured_is_said() -> None:
    partial = content(a={"numbers": [{"what": "MNIST", "value": 64.0, "unit": "h"}]})
    text = paragraph({"hours": {**partial, "complete": False}})
    assert text.count("not measured") == 3
    assert "MNIST only: 64 on 1, 8 on 8, 1 on 64" in text
