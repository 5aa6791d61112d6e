"""Fills an MLflow database with a grid's runs and made-up scores: `python -m bench.fill_mlflow --out paper.db`.

Use it to try the MLflow page and the report with a grid of that size. The runs are recorded by the sweep's own code, so
that they have the params, tags, metrics and curves of a real sweep; only the artifacts are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from mlflow.entities import Run
from rich.progress import track
from torch import Tensor

from rme import data
from rme.config import RunSpec
from rme.engine import member_parameters
from rme.result import Result
from rme.training import HISTORY_POINTS
from rme.untrained import untrained
from tune.plan import grid as grids
from tune.record.tracking import Tracker

STARTED = 1_767_225_600.0
"""Start of the made-up sweep, s since 1970."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.fill_mlflow", description="Record made-up results of a whole grid.")
    parser.add_argument("--grid", default="paper", metavar="NAME|FILE.yaml", help="whose runs (default: paper)")
    parser.add_argument("--out", required=True, metavar="FILE.db", type=Path, help="the sqlite database to fill")
    options = parser.parse_args(arguments)
    grid = grids.load(options.grid)
    tracker = NoArtifacts(f"sqlite:///{options.out.resolve()}", grid.name)
    began = time.perf_counter()
    for result in track(results(grid.runs), total=len(grid.runs), description="recording"):
        tracker.record(result)
    recorded = time.perf_counter()
    tracker.summarise_cells()
    summarised = time.perf_counter()
    cells = len({spec.cell_key for spec in grid.runs})
    print(f"{len(grid.runs)} runs and {cells} cells in {recorded - began:.0f} s, summarised in "
          f"{summarised - recorded:.1f} s, {options.out.stat().st_size / 2**20:.0f} MiB")  # fmt: skip
    return 0


class NoArtifacts(Tracker):
    """Records runs without their files."""

    def _add_files(self, run: Run, result: Result) -> dict[str, str]:
        return {}


def results(runs: Sequence[RunSpec]) -> Iterator[Result]:
    """A made-up result for each run, started one after another."""
    for number, spec in enumerate(runs):
        yield made_up(spec, STARTED + 60.0 * number)


def made_up(spec: RunSpec, started: float) -> Result:
    """A result of realistic size, with untrained models and curves that rise to a score depending on cell and seed."""
    rng = np.random.default_rng(int(spec.key, 16))
    of_cell = np.random.default_rng(int(spec.cell_key, 16))
    channels, height, width = data.get(spec.dataset).shape
    level = channels * height * width * (0.8 + 0.2 * np.log10(spec.dim)) + 20 * of_cell.normal()
    val_iwae = torch.from_numpy(level + 3 * rng.normal(size=spec.restarts))
    updates, model = _untrained(spec.method, spec.order, spec.decoder, spec.dataset, spec.dim)
    epochs = spec.training_epochs
    grown = 1 - torch.exp(-torch.arange(1, epochs + 1, dtype=torch.float64) / (0.1 * epochs))
    elbo = (grown[:, None] * val_iwae - 5).expand(epochs, spec.restarts).clone()
    measured = torch.arange(1, epochs + 1) % max(1, epochs // HISTORY_POINTS) == 0
    elbo[~measured] = torch.nan
    chosen = int(val_iwae.argmax())
    test_iwae = val_iwae[chosen] + torch.from_numpy(30 * rng.normal(size=100))
    return Result(
        spec=spec,
        chosen=chosen,
        models=[model] * spec.restarts,
        val_iwae=val_iwae,
        val_elbo=val_iwae - 5,
        kept_epochs=torch.full((spec.restarts,), epochs),
        test_iwae=test_iwae,
        test_elbo=test_iwae - 5,
        inference_ms=float(5 + rng.random()),
        train_s=float(3000 + 600 * rng.random()),
        updates=updates,
        losses=-(grown[:, None, None] * val_iwae).expand(epochs, len(updates), spec.restarts),
        history_elbo=elbo,
        diagnostics={},
        finished_at=started + torch.linspace(1, 3000, epochs, dtype=torch.float64),
        reconstructions=torch.zeros(0),
        samples=torch.zeros(0),
        test_images=torch.zeros(0),
        environment={"device": "made up", "torch": torch.__version__, "members": str(2 * spec.restarts)},
    )


@lru_cache(maxsize=1)  # a cell's runs follow each other
def _untrained(
    method: str, order: int | None, decoder: str, dataset: str, dim: int
) -> tuple[list[str], dict[str, Tensor]]:
    """Names of a method's updates, and the parameters of an untrained model."""
    spec = RunSpec.of({"method": method, "order": order, "decoder": decoder, "dataset": dataset, "dim": dim})
    model = untrained([spec], data.get(dataset).shape)
    return [update.name for update in model.updates()], member_parameters(model, 0)


if __name__ == "__main__":
    sys.exit(main())
