"""Split log p(x) of each image into ELBO, approximation gap and amortisation gap, for finished runs of a storage.

    python docs/results/mnist-d10/nats.py --storage storage --data-dir data --out docs/results/mnist-d10/nats.csv

Adds to `--out` the finished runs of `ROWS` that it lacks: a line per run and image, in nats, by `rme.inference_gaps`,
with log p(x) by the best proposal found, the best ELBO of the posterior's family, the amortised ELBO, and IWAE by K.
Every run uses the first 100 test images, so that rows are paired. Errors are Monte Carlo standard errors. Takes minutes
per run on one core.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from rme import data, noise
from rme.config import RunSpec
from rme.inference_gaps import gaps, iwae_by_samples
from rme.noise import Noise
from tune.plan import grid
from tune.store.storage import Storage

ROWS = ["VAE", "VAE-more, 2e-5", "VAE-more", "VAE-more, searched", "VAE-more, 3.9e-6", "RME(2)", "RME(2), 2e-5",
        "RME(2), searched", "RME(5), 2e-5"]  # fmt: skip
IMAGES, SAMPLES, COUNTS = 100, 1000, [1, 10, 100, 1000]
AT_ONCE = 25
"""Images whose posteriors are optimised at once, which limits memory."""

HEADER = ["run_key", "row", "seed", "image", "log_p", "log_p_error", "best_elbo", "best_elbo_error", "elbo",
          "elbo_error", *(f"iwae_{count}" for count in COUNTS)]  # fmt: skip


def lines(spec: RunSpec, storage: Storage, data_dir: Path) -> list[list[str]]:
    """One line per image of a finished run; none if the storage has no result of it."""
    result = storage.result(spec)
    if result is None:
        return []
    model = result.method
    pixels = data.get(spec.dataset).load(data_dir).test[:IMAGES]
    stream = Noise([noise.generator(spec.seed, result.chosen, noise.EVALUATE)], model.pixel_mean.dtype)
    found = []
    for first in range(0, IMAGES, AT_ONCE):
        x = model.centred(pixels[first : first + AT_ONCE].unsqueeze(0))
        each = gaps(model, x, stream, samples=SAMPLES)
        by_count, _ = iwae_by_samples(each.log_w, COUNTS)
        columns = [each.log_p, each.log_p_error, each.best_elbo, each.best_elbo_error, each.elbo, each.elbo_error]
        numbers = torch.stack([*(column[0].double() for column in columns), *by_count[:, 0]], 1)  # (N, 10)
        found += [[f"{value:.4f}" for value in row] for row in numbers.tolist()]
    return [[spec.key, spec.method_label, str(spec.seed), str(i), *row] for i, row in enumerate(found)]


def arguments(about: str | None) -> argparse.Namespace:
    """Command line of a script that evaluates the models of a storage; `about` is its docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    options = arguments(__doc__)
    torch.set_num_threads(1)
    storage = Storage(options.storage)
    table = list(csv.reader(options.out.open())) if options.out.exists() else [HEADER]
    known = {line[0] for line in table[1:]}
    runs = [spec for spec in grid.load("mnist-d10").runs if spec.method_label in ROWS and spec.key not in known]
    for spec in sorted(runs, key=lambda spec: spec.seed):
        if found := lines(spec, storage, options.data_dir):
            table += found
            with options.out.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(table)
            print(spec.run_name, flush=True)


if __name__ == "__main__":
    main()
