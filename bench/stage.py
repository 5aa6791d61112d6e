"""Measures the cases of one stage of `bench.device` that its file lacks: the process that `bench.device` starts.

    python -m bench.stage NAME --device cpu --out FILE --seconds 60

NAME is a module of `bench.stages`, or any module by its full name. The file is saved when a case begins and when it
ends. Cases that an earlier run did not end, or that raised, come last, so that they cannot keep others from being
measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import stage_file
from bench.harness import Row, prepare
from bench.stages.case import Case, Check, Number
from rme.device import is_lost, pick_device

BEGAN = time.monotonic()

LOGGERS = {"rme.cuda_graph": logging.WARNING, "rme.kernels": logging.INFO}
"""Loggers that tell what fell back, and from which level."""


def run(cases: Sequence[Case], content: stage_file.Content, path: Path, device: torch.device, until: float) -> None:
    """Measure the cases that `content` lacks, until `time.monotonic()` is `until`; save after each.

    A case that raises is noted and the next begins. Errors after which the process has lost its GPU propagate.
    """
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"two cases have the same name: {', '.join(names)}")
    content["planned"] = names
    for case in pending(cases, content):
        if time.monotonic() >= until:
            break
        content["interrupted"] = [*(name for name in content["interrupted"] if name != case.name), case.name]
        stage_file.save(path, content)
        content["fell_back"] = [one for one in content["fell_back"] if one["case"] != case.name]
        with _messages() as messages:
            found = _measure(case)
        content["fell_back"] += [{"case": case.name, "why": why} for why in messages]
        measured = {**content["cases"], case.name: found}
        content["cases"] = {name: measured[name] for name in names if name in measured}
        content["interrupted"].remove(case.name)
        stage_file.save(path, content)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
    content["complete"] = not pending(cases, content)
    stage_file.save(path, content)


def pending(cases: Sequence[Case], content: stage_file.Content) -> list[Case]:
    """The cases without a result, in order; at the end those that did not end or raised in an earlier run."""
    failed = {name for name, found in content["cases"].items() if found["error"]} | {*content["interrupted"]}
    left = [case for case in cases if case.name not in content["cases"] or case.name in failed]
    return sorted(left, key=lambda case: case.name in failed)


def _measure(case: Case) -> dict[str, Any]:
    began = time.monotonic()
    found: dict[str, Any] = {"seconds": 0.0, "rows": [], "checks": [], "numbers": [], "error": None}
    try:
        for entry in case.measure():
            match entry:
                case Row():
                    found["rows"].append(asdict(entry))
                case Check():
                    found["checks"].append({**asdict(entry), "right": entry.right})
                case Number():
                    found["numbers"].append(asdict(entry))
                case _:
                    raise TypeError(f"{type(entry).__name__} is no entry of a case")
    except Exception as error:
        if is_lost(error):
            raise
        traceback.print_exc()
        found["error"] = " ".join(f"{type(error).__name__}: {error}".split())
    found["seconds"] = round(time.monotonic() - began, 3)
    return found


@contextmanager
def _messages() -> Iterator[list[str]]:
    """The messages of `LOGGERS` in the block, each once."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = " ".join(record.getMessage().split())
            if message not in messages:
                messages.append(message)

    loggers = {logging.getLogger(name): level for name, level in LOGGERS.items()}
    levels = {logger: logger.level for logger in loggers}
    handler = Collect()
    for logger, level in loggers.items():
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(levels[logger])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("name", metavar="NAME", help="a module of bench.stages, or a module's full name")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="the stage's JSON file")
    p.add_argument("--seconds", type=float, required=True, help="no case begins later than this")
    a = p.parse_args(argv)
    try:
        device = pick_device(a.device)
        content = stage_file.load_same(a.out, device) or stage_file.new(a.name.rpartition(".")[2], device)
    except ValueError as error:
        p.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that cases clean up
    prepare(device)
    module = importlib.import_module(a.name if "." in a.name else f"bench.stages.{a.name}")
    run(list(module.cases(device)), content, a.out, device, BEGAN + a.seconds)


if __name__ == "__main__":
    main()
