"""Write the samples of the study's searches, one per line, from the storage of the searches.

    python docs/results/mnist-d10/search.py --storage storage --out docs/results/mnist-d10/search.csv

Each has its sampled values, the kept epoch (the one of the best validation ELBO), that ELBO, and its validation IWAE,
nats per image.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from tune.search.samples import Status, samples_in


def lines(folder: Path) -> list[dict[str, object]]:
    """The finished samples of one search, by number."""
    about = json.loads((folder / "search.json").read_text())
    seeds = " ".join(map(str, about["seeds"]))
    found = []
    for sample in samples_in(folder):
        if sample.outcome is not Status.OPEN:
            kept, elbo = max(sample.curve, key=lambda point: point[1], default=(None, None))
            found.append(
                {"search": folder.name, "cell": about["cell"], "seeds": seeds, "number": sample.number,
                 "outcome": sample.outcome, **sample.values, "kept_epoch": kept, "val_elbo": elbo,
                 "val_iwae": sample.val_iwae}
            )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folders = sorted((options.storage / "search").iterdir())
    found = pd.DataFrame([line for folder in folders for line in lines(folder)])
    scores = ["kept_epoch", "val_elbo", "val_iwae"]  # the last columns
    found[[name for name in found if name not in scores] + scores].to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
