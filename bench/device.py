"""Measures what this machine's GPU or CPU can do, most important first, within a given time.

    python -m bench.device --minutes 8 --out DIR

Each stage (correctness, CUDA graphs, speed, ...) is a process of its own with a limit, so that one that breaks or hangs
costs no other. Its results are in DIR/STAGE.json, its messages in DIR/STAGE.log. What DIR already has for this device
and code is not measured again, so two short runs add up. The status is 1 if a check is wrong, a case raised an error or
a stage failed; running out of time is no failure.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from bench import stage_file
from bench.harness import measured_on, print_columns
from bench.stage_file import ROOT, Content, UnusableFileError
from bench.summary import paragraph
from bench.table import Table, stage_parts
from rme.device import pick_device
from rme.errors import last_line
from tune.store.storage import check_writable


@dataclass(frozen=True)
class Stage:
    """A stage: its name, its question in a few words, its share of the time, and its module.

    The module is one of `bench.stages` with the stage's name, or any other by its full name.
    """

    name: str
    question: str
    weight: float = 2.0
    module: str = ""


STAGES = (
    Stage("right", "are steps and scores right?", 3),
    Stage("graph", "is each step captured as a CUDA graph?"),
    Stage("speed", "an array against one model at a time", 3),
    Stage("roofline", "share of the device's peak"),
    Stage("inference", "cost of q(z|x)"),
    Stage("hours", "hours of --grid paper", 4),
    Stage("iwae", "cost of test log-likelihoods"),
    Stage("kernels", "the fastest kernel of each layer", 3),
    Stage("growth", "time by members, order, dim, data set"),
    Stage("memory", "peak memory"),
    Stage("epoch", "what an epoch takes besides its steps"),
    Stage("packing", "several processes at once"),
)
"""Most important first."""

MINIMUM_S = 5.0
"""With fewer seconds left no stage begins: importing torch alone takes some."""

GRACE_S = 2.0
"""Seconds between SIGTERM and SIGKILL."""

POLL_S = 0.05
"""Seconds between two looks at the process of a stage."""

Clock = Callable[[], float]


@dataclass
class Outcome:
    """How a stage ended, in this run.

    Attributes:
        text: in words.
        seconds: wall time; None if it was not started.
        failed: whether its process failed.
        out_of_time: whether it could do more with more time.
    """

    text: str
    seconds: float | None = None
    failed: bool = False
    out_of_time: bool = False


@dataclass
class Run:
    """One call of the command.

    Attributes:
        device: what is measured.
        out: the folder of the results.
        outcomes: how each stage ended.
        signal: of SIGINT and SIGTERM the one that was received, which ends the stage and the run; 0: none.
    """

    device: torch.device
    out: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    signal: int = 0

    def file(self, stage: Stage) -> Path:
        return self.out / f"{stage.name}.json"

    def content(self, stage: Stage) -> Content | None:
        """What the stage has measured so far, in all runs; None: nothing, or with code that has changed since."""
        with suppress(UnusableFileError):
            return stage_file.load_same(self.file(stage), self.device)
        return None

    # ------------------------------------------------------------------ running
    def measure(self, stages: Sequence[Stage], seconds: float, clock: Clock) -> None:
        """Run the stages one after another, for `seconds` in all.

        Time that a stage leaves goes to those after it; what is left at the end, to those that ran out of time.
        """
        end = clock() + seconds
        waiting = []
        for stage in stages:
            content = self.content(stage)
            if content is not None and content["complete"]:
                self._ended(stage, Outcome("done in an earlier run"))
            else:
                waiting.append(stage)
        self._in_turn(waiting, end, clock)
        self._in_turn([stage for stage in waiting if self.outcomes[stage.name].out_of_time], end, clock)

    def _in_turn(self, stages: Sequence[Stage], end: float, clock: Clock) -> None:
        for i, stage in enumerate(stages):
            left = end - clock()
            if left >= MINIMUM_S and not self.signal:
                share = left * stage.weight / sum(later.weight for later in stages[i:])
                self._ended(stage, self._run(stage, max(share, MINIMUM_S), clock))
            elif stage.name not in self.outcomes:
                self._ended(stage, Outcome("not reached"))

    def _run(self, stage: Stage, limit: float, clock: Clock) -> Outcome:
        began = clock()
        command = [
            sys.executable, "-m", "bench.stage", stage.module or stage.name, "--device", str(self.device),
            "--out", str(self.file(stage)), "--seconds", f"{limit:.1f}",
        ]  # fmt: skip
        messages = self.out / f"{stage.name}.log"
        earlier = messages.stat().st_size if messages.exists() else 0
        with open(messages, "ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            while process.poll() is None and clock() < began + limit and not self.signal:
                time.sleep(POLL_S)
            status = process.poll()
        finally:
            _end(process)
        outcome = Outcome("interrupted") if self.signal else self._outcome(stage, status, messages, earlier)
        outcome.seconds = clock() - began
        return outcome

    def _outcome(self, stage: Stage, status: int | None, messages: Path, earlier: int) -> Outcome:
        """How a stage ended whose process had this exit status; None: it was killed at its limit.

        Its messages are what the file has after `earlier` bytes.
        """
        content = self.content(stage)
        begun = ", ".join(content["interrupted"][-1:]) if content else ""
        if content is not None and content["complete"] and (status is None or status == 0):
            return Outcome("done")
        if status is None:
            return Outcome(f"out of time{f' in {begun}' if begun else ''}", out_of_time=True)
        if status:
            how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
            text = messages.read_bytes()[earlier:].decode(errors="replace").strip()
            last = f": {last_line(RuntimeError(text))}" if text else ""
            return Outcome(f"failed{f' in {begun}' if begun else ''}, {how}{last}", failed=True)
        if content is None:
            return Outcome("failed, the code has changed meanwhile", failed=True)
        left = [name for name in content["planned"] if name not in content["cases"]]
        return Outcome("out of time", out_of_time=True) if left else Outcome("done")

    def _ended(self, stage: Stage, outcome: Outcome) -> None:
        self.outcomes[stage.name] = outcome
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
        print(f"{stage.name:10} {seconds:>6}  {outcome.text}", flush=True)

    # ------------------------------------------------------------------ results
    def show(self, stages: Sequence[Stage]) -> bool:
        """Print the tables and the paragraph. Whether all that was measured is right and no stage failed."""
        contents = {stage.name: content for stage in stages if (content := self.content(stage)) is not None}
        lines = []
        for stage in stages:
            outcome = self.outcomes.get(stage.name, Outcome("not requested"))
            lines.append((stage.name, stage.question, outcome.text, _measured(contents.get(stage.name))))
        print()
        _print("Stages", Table(("stage", "question", "outcome", "cases measured"), lines, (0, 1, 2)))
        for stage in stages:
            if stage.name not in contents:
                continue
            title = f"{stage.name}: {stage.question}"
            for part in stage_parts(contents[stage.name]):
                if isinstance(part, Table):
                    print()
                    _print(title, part)
                else:
                    print(f"\n{title}\n{part}" if title else part)
                title = ""
        print(f"\n{paragraph(contents)}")
        cases = [case for content in contents.values() for case in content["cases"].values()]
        wrong = any(case["error"] or not all(check["right"] for check in case["checks"]) for case in cases)
        return bool(cases) and not wrong and not any(outcome.failed for outcome in self.outcomes.values())


def _measured(content: Content | None) -> str:
    if content is None:
        return ""
    raised = sum(1 for case in content["cases"].values() if case["error"])
    text = f"{len(content['cases']) - raised} of {len(content['planned'])}"
    return f"{text}, {raised} raised an error" if raised else text


def _print(title: str, table: Table) -> None:
    print_columns(title, table.headings, table.lines, left=table.left)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started: SIGTERM, then SIGKILL."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


# ---------------------------------------------------------------------- command line
def parser(stages: Sequence[Stage] = STAGES) -> argparse.ArgumentParser:
    """The command line's parser."""
    p = argparse.ArgumentParser(
        prog="python -m bench.device", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--minutes", type=float, default=8.0, help="for all stages together (default: %(default)g)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results; created if missing")
    p.add_argument(
        "--stages", metavar="NAME,...", help="only these (default: all): " + ", ".join(s.name for s in stages)
    )
    return p


def _checked(a: argparse.Namespace, stages: Sequence[Stage]) -> tuple[Run, list[Stage]]:
    """The run and its stages. ValueError, in one line, for what is invalid."""
    if not (a.minutes > 0 and math.isfinite(a.minutes)):
        raise ValueError(f"--minutes {a.minutes:g}: a number above 0")
    named = {stage.name: stage for stage in stages}
    names = [name.strip() for name in a.stages.split(",")] if a.stages is not None else list(named)
    for name in names:
        if name not in named:
            raise ValueError(f"--stages {name}: valid values are {', '.join(named)}")
    device = pick_device(a.device)
    check_writable(a.out, f"--out {a.out}")
    run = Run(device, a.out.resolve())
    for stage in stages:
        stage_file.load_same(run.file(stage), device)
    return run, [stage for stage in stages if stage.name in names]


def main(argv: Sequence[str] | None = None, stages: Sequence[Stage] = STAGES, clock: Clock = time.monotonic) -> int:
    """Run the command line. Returns the exit status; `clock` tells the time in seconds."""
    a = parser(stages).parse_args(argv)
    try:
        run, chosen = _checked(a, stages)
    except ValueError as error:
        print(f"python -m bench.device: {error}", file=sys.stderr)
        return 2
    print(
        f"{measured_on(run.device)}, torch {torch.__version__}, {a.minutes:g} minutes, results in {a.out}", flush=True
    )

    def interrupt(number: int, frame: FrameType | None) -> None:
        run.signal = number

    handlers: dict[int, Any] = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run.measure(chosen, a.minutes * 60, clock)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    right = run.show(stages)
    return 128 + run.signal if run.signal else 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
