"""The study's own tables, as Markdown, from its files alone: what patience would have cost, and where the nats are.

    python docs/results/mnist-d10/study.py

Everything else is the report's: `python -m analysis.report --runs docs/results/mnist-d10/runs.csv --out DIR`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.evidence import curves_path, read_points, read_runs
from analysis.signed_rank import location, wilcoxon_greater

HERE = Path(__file__).parent
PATIENCES = [1, 2, 3, 5, 10]
CONTROLS = {"RME(2)": "VAE-more", "RME(2), 2e-5": "VAE-more, 2e-5", "RME(5), 2e-5": "VAE-more, 2e-5"}


def stopped(elbo: pd.Series, patience: int) -> tuple[int, float]:
    """Of validation ELBOs by epoch (1, 2, ..): after which epoch that patience ends the training, and its best by then.

    The rule of `rme.kept`: a best that is `patience` epochs old.
    """
    best, best_epoch = -np.inf, 0
    for epoch, value in elbo.items():
        if value > best:
            best, best_epoch = value, epoch
        if epoch - best_epoch >= patience:
            return epoch, best
    return int(elbo.index[-1]), best


def patience_lines(runs: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """For each row and patience the mean epochs that it takes, and the validation ELBO that it gives away, nats."""
    curves = points[points["metric"] == "val_elbo"].set_index(["run_key", "epoch"])["value"]
    head = " | ".join(f"patience {p}" for p in PATIENCES)
    lines = [f"| row | epochs | {head} |", "|---" * (2 + len(PATIENCES)) + "|"]
    for label, cell in runs.groupby("method_label", sort=False):
        own = [curves[key].sort_index() for key in cell["run_key"] if key in curves.index.get_level_values(0)]
        if not own:
            continue
        cells = []
        for patience in PATIENCES:
            ends = [stopped(elbo, patience) for elbo in own]
            lost = np.mean([elbo.max() - best for elbo, (_, best) in zip(own, ends, strict=True)])
            cells.append(f"{np.mean([epoch for epoch, _ in ends]):.1f} epochs, −{lost:.1f}")
        lines.append(f"| {label} | {len(own[0])} | {' | '.join(cells)} |")
    return lines


def nats_lines(nats: pd.DataFrame) -> list[str]:
    """For each row means over images and seeds, and paired with the control: differences of each seed's means."""
    parts = {
        "log p(x), searched": nats["log_p"],
        "best ELBO of the family": nats["best_elbo"],
        "ELBO": nats["elbo"],
        "IWAE, K = 10": nats["iwae_10"],
        "IWAE, K = 100": nats["iwae_100"],
        "IWAE, K = 1000": nats["iwae_1000"],
        "the family lacks": nats["log_p"] - nats["best_elbo"],
        "the encoder lacks": nats["best_elbo"] - nats["elbo"],
    }
    table = nats[["row", "seed"]].assign(**parts).groupby(["row", "seed"], sort=False).mean()
    seeds = table.index.get_level_values("seed").nunique()
    lines = [
        f"| mean over {seeds} seed{'s' if seeds > 1 else ''}, nats | " + " | ".join(parts) + " |",
        "|---" * (1 + len(parts)) + "|",
    ]
    for row, cell in table.groupby("row", sort=False):
        lines.append(f"| {row} | " + " | ".join(f"{cell[name].mean():.1f}" for name in parts) + " |")
    for row, control in CONTROLS.items():
        if {row, control} <= set(table.index.get_level_values("row")):
            cells = [paired_text(table.loc[row][name], table.loc[control][name]) for name in parts]
            lines.append(f"| {row} − {control} | " + " | ".join(cells) + " |")
    return lines


def paired_text(a: pd.Series, b: pd.Series) -> str:
    """Hodges and Lehmann's estimate of a - b over the seeds that both have; its interval and p where pairs suffice."""
    where, test = location(a, b), wilcoxon_greater(a, b)
    interval = "" if np.isnan(where.low) else f" [{where.low:+.1f}, {where.high:+.1f}], p = {test.p:.3g}"
    return f"{where.estimate:+.1f}{interval}"


def main() -> None:
    runs = read_runs(HERE / "runs.csv")
    print("\n".join(patience_lines(runs, read_points(curves_path(HERE / "runs.csv")))))
    if (HERE / "nats.csv").exists():
        print("\n" + "\n".join(nats_lines(pd.read_csv(HERE / "nats.csv"))))


if __name__ == "__main__":
    main()
