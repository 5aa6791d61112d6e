"""Rivals in separate processes, for settings that hold for a whole process, such as the allocator's.

`Child` starts `python -m bench.child MODULE FUNCTION ARGUMENTS` and requests one measurement at a time, so that rivals
can be interleaved.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from types import TracebackType
from typing import Any

import torch

from bench.harness import prepare, timed

CPU = torch.device("cpu")


class Child:
    """A process that imports `module`, calls `function(**arguments)`, and times the returned callable on request.

    Args:
        module, function: a function that returns the work, as a callable without arguments.
        arguments: JSON values.
        keep_freed_memory: prepare the process by `harness.prepare`. False: default allocator settings, and
            torch.distributions checks its arguments. The process has one thread either way.

    A call repeats the work often enough for the clock and returns the CPU seconds of one repetition. `first` is what
    the first repetition returned. Close it, or use it in a `with`. RuntimeError if the process ends early.
    """

    def __init__(
        self, module: str, function: str, arguments: dict[str, Any], *, keep_freed_memory: bool = True
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        command = [sys.executable, "-m", "bench.child", module, function, json.dumps(arguments)]
        if not keep_freed_memory:
            command.append("--as-it-comes")
        self.name = f"{module}.{function}({arguments})"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.first = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the process exited with status {self.process.wait()}")
        return json.loads(line)

    def __call__(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()  # closes its input, which ends it

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _serve(module: str, function: str, arguments: str, *flags: str) -> None:
    out, sys.stdout = sys.stdout, sys.stderr  # stdout is for answers alone; the work prints to stderr
    torch.set_num_threads(1)
    if "--as-it-comes" not in flags:
        prepare(CPU)
    work = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    first = work()
    print(json.dumps(first.tolist() if isinstance(first, torch.Tensor) else first), file=out, flush=True)
    timer = timed(work, CPU)
    for _ in sys.stdin:
        print(json.dumps(timer()), file=out, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
