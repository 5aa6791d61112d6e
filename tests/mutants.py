"""Mutation testing: how many small faults, inserted into a file one at a time, do its tests detect?

    make mutants FILES="rme/objective.py rme/methods/sa.py"

mutmut creates the mutants, forks a process for each, and runs the tests that reach the mutated function. This script
chooses the files to mutate and the tests that mirror them, and can sample the mutants. Each mutant that survives is
printed as a diff.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path

from mirrors import tests_of

# this folder contains tests/rme, which would hide the package
sys.path = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]

from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code

DETECTED = ("killed", "timeout", "segfault", "caught by type check")


def take_samples(size: int | None, seed: int, only: list[str]) -> None:
    """Limit mutmut to the mutants in `only` (empty: all), and to a random `size` of each file (None: all)."""
    collect = mutmut.collect_source_file_mutation_data

    def sampled(**wanted):
        mutants, files = collect(**wanted)
        by_file = defaultdict(list)
        for mutant in mutants:
            if not only or mutant[1] in only:
                by_file[str(mutant[0].path)].append(mutant)
        chosen = []
        for path, own in by_file.items():
            own.sort(key=lambda mutant: mutant[1])
            chosen += own if size is None else random.Random(f"{seed} {path}").sample(own, min(size, len(own)))
        return chosen, files

    mutmut.collect_source_file_mutation_data = sampled


def fastest_first(longest: float) -> None:
    """Run a mutant's tests by increasing duration, leaving out those of more than `longest` seconds."""
    arguments = PytestRunner._pytest_args_regular_run

    def ordered(self, tests):
        seconds = state().duration_by_test
        wanted = sorted(tests or seconds, key=lambda test: (seconds.get(test, 0), test))
        kept = [test for test in wanted if seconds.get(test, 0) <= longest]
        return arguments(self, kept or wanted[:1])  # without any, pytest would run all

    PytestRunner._pytest_args_regular_run = ordered


def report(files: list[Path], seed: int) -> None:
    rows = []
    for path in files:
        data = mutmut.SourceFileMutationData(path=path)
        data.load()
        status = {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
        tried = [name for name, what in status.items() if what != "not checked"]
        survived = [name for name in tried if status[name] not in DETECTED]
        for name in survived:
            print(f"\n# {path} {name}: {status[name]}")
            print(get_diff_for_mutant(name, path=path))
        which = f"all {len(tried)}" if len(tried) == len(status) else f"{len(tried)} of {len(status)}, seed {seed}"
        killed = len(tried) - len(survived)
        rows.append(f"| {path} | {which} | {killed} | {len(survived)} | {killed / max(len(tried), 1):.0%} |")
    print("\n| file | mutants | killed | survived | rate |\n|---|---|---|---|---|", *rows, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="files to mutate, e.g. rme/objective.py")
    parser.add_argument("--tests", nargs="+", default=[], help="tests to run (default: those that mirror the files)")
    parser.add_argument("--sample", type=int, help="number of mutants per file, drawn at random (default: all)")
    parser.add_argument("-k", metavar="EXPRESSION", help="select among these tests, as pytest's -k")
    parser.add_argument("--only", nargs="+", default=[], help="names of mutants, such as those that survived")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--longest", type=float, default=float("inf"), help="leave out tests of more seconds than this")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    shutil.rmtree("mutants", ignore_errors=True)  # mutmut would reuse the previous samples and tests
    config().only_mutate = [str(file) for file in args.files]
    tests = args.tests or [test for file in args.files for test in tests_of(file)]
    config().pytest_add_cli_args_test_selection = list(dict.fromkeys(tests))
    config().pytest_add_cli_args += ["-k", args.k] if args.k else []
    take_samples(args.sample, args.seed, args.only)
    fastest_first(args.longest)
    mutmut._run((), args.jobs)
    report(args.files, args.seed)


if __name__ == "__main__":
    main()
