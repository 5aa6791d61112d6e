"""Print, as Markdown, the tables of this study's page and of the rivals' page that the report does not write.

    python docs/results/mnist-d10/study.py

In order: scores, differences between rows, search samples, cost of patience, head-room, and gaps; then scores,
differences and patience of the rivals. They need only the committed files. The other tables are the report's:
`python -m analysis.report --runs docs/results/mnist-d10/runs.csv --out DIR`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.evidence import curves_path, read_points, read_runs
from analysis.signed_rank import location, paired, wilcoxon_greater

HERE = Path(__file__).parent
RIVALS = HERE.with_name("mnist-d10-rivals")
PATIENCES = [1, 2, 3, 5, 10]
SCORE_PAIRS = [
    ("RME(2)", "VAE-more"),
    ("RME(2), last epoch", "VAE-more, last epoch"),
    ("RME(2), 2e-5", "VAE-more, 2e-5"),
    ("RME(2), searched", "VAE-more, searched"),
    ("RME(2), searched", "VAE-more, 3.9e-6"),
    ("RME(2), searched", "RME(2), 2e-5"),
    ("VAE-more, searched", "VAE-more, 2e-5"),
    ("RME(5), 2e-5", "VAE-more, 2e-5"),
    ("RME(5), 2e-5", "VAE-more, 2e-5, RME(5)'s compute"),
    ("RME(5), 2e-5, 16 epochs", "VAE-more, 2e-5, 16 epochs"),
    ("RME(5), 2e-5", "RME(2), 2e-5"),
]
"""Differences in score that the study reports: (row, row that it is compared with)."""

RIVAL_PAIRS = [
    ("RME(2), 2e-5", "VAE-more, 2e-5"),
    ("IAF(2), 2e-5", "VAE-more, 2e-5"),
    ("BVI-ER2(2), 2e-5", "VAE-more, 2e-5"),
    ("ME(2), 2e-5", "VAE-more, 2e-5"),
    ("RME(2), 2e-5", "IAF(2), 2e-5"),
    ("RME(2), 2e-5", "BVI-ER2(2), 2e-5"),
    ("RME(2), 2e-5", "ME(2), 2e-5"),
    ("RME(2)", "VAE-more"),
    ("IAF(2)", "VAE-more, 5e-4"),
    ("BVI-ER2(2)", "VAE-more"),
    ("ME(2)", "VAE-more, 5e-4"),
    ("RME(2)", "IAF(2)"),
    ("RME(2)", "BVI-ER2(2)"),
    ("RME(2)", "ME(2)"),
    ("VAE-more", "IAF(2)"),
    ("VAE-more", "ME(2)"),
]
"""Likewise for the rivals' page: on equal terms, then each at its own rate."""

GAP_PAIRS = [
    ("VAE-more, 2e-5", "VAE"),
    ("RME(2)", "VAE-more"),
    ("RME(2), 2e-5", "VAE-more, 2e-5"),
    ("RME(2), searched", "VAE-more, searched"),
    ("RME(2), searched", "VAE-more, 3.9e-6"),
    ("RME(5), 2e-5", "VAE-more, 2e-5"),
]
"""Likewise for the gaps."""


def score_lines(scores: Mapping[str, pd.Series]) -> list[str]:
    """Test IWAE of each row over seeds, lowest first, and its difference from the VAE of the same seed."""
    lines = ["| row | seeds | test IWAE, nats | above the VAE |", "|---|---|---|---|"]
    for label, own in sorted(scores.items(), key=lambda row: row[1].mean()):
        above = "" if label == "VAE" else paired_text(own, scores["VAE"], with_p=True)
        spread = f" ± {own.std():.1f}" if len(own) > 1 else ""
        lines.append(f"| {label} | {len(own)} | {own.mean():.1f}{spread} | {above} |")
    return lines


def difference_lines(scores: Mapping[str, pd.Series], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Differences between rows: per seed, estimate with confidence interval, and one-sided p in both directions."""
    lines = ["| difference | per seed | estimate | p, above | p, below |", "|---" * 5 + "|"]
    for row, other in pairs:
        if {row, other} <= set(scores):
            each = " ".join(f"{value:+.1f}" for value in paired(scores[row], scores[other]))
            above, below = wilcoxon_greater(scores[row], scores[other]), wilcoxon_greater(scores[other], scores[row])
            whole = paired_text(scores[row], scores[other])
            lines.append(f"| {row} − {other} | {each} | {whole} | {above.p:.3g} | {below.p:.3g} |")
    return lines


def by_label(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """Test IWAE by seed, of each row in the order of the file."""
    return {
        str(label): cell.set_index("seed")["test_iwae"].sort_index()
        for label, cell in runs.groupby("method_label", sort=False)
    }


def stopped(elbo: pd.Series, patience: int) -> tuple[int, float]:
    """The epoch after which a patience stops the training, and the best ELBO so far; `elbo` is by epoch (1, 2, ..).

    As in `rme.kept`, training stops once the best is `patience` epochs old.
    """
    best, best_epoch = -np.inf, 0
    for epoch, value in elbo.items():
        if value > best:
            best, best_epoch = value, epoch
        if epoch - best_epoch >= patience:
            return epoch, best
    return int(elbo.index[-1]), best


def patience_lines(runs: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """For each row and patience: mean epochs until it stops, and the validation ELBO lost by stopping, nats."""
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


def search_lines(samples: pd.DataFrame) -> list[str]:
    """Values and validation scores (nats) of each sample of a search, best first."""
    head = "| search for | rate | epochs | kl_max | kept epoch | validation ELBO | validation IWAE |"
    lines = [head, "|---" * 7 + "|"]
    for cell, found in samples.groupby("cell"):
        for sample in found.sort_values("val_iwae", ascending=False).itertuples():
            kl_max = "" if np.isnan(sample.kl_max) else f"{sample.kl_max:.0f}"
            lines.append(
                f"| {cell} | {sample.stage_learning_rate:.2g} | {sample.stage_epochs} | {kl_max} | {sample.kept_epoch} "
                f"| {sample.val_elbo:.1f} | {sample.val_iwae:.2f} |"
            )
    return lines


def head_room_lines(found: pd.DataFrame) -> list[str]:
    """Gain of SVI over the VAE by number of steps, nats, and its inference time, ms and relative to the VAE."""
    head = "| row | seeds | test IWAE, nats | above the VAE | ms per batch of 128 | relative to the VAE |"
    lines = [head, "|---" * 6 + "|"]
    vae = found[found["row"] == "VAE"].set_index("seed")
    for label, own in found.set_index("seed").groupby("row", sort=False):
        error = own["above_vae_error"].mean()
        above = "" if label == "VAE" else f"{paired_text(own['iwae'], vae['iwae'])} ± {error:.1f}"
        ms, times = own["inference_ms"].mean(), (own["inference_ms"] / vae["inference_ms"]).mean()
        lines.append(f"| {label} | {len(own)} | {own['iwae'].mean():.1f} | {above} | {ms:.0f} | {times:.0f} |")
    return lines


def gap_lines(nats: pd.DataFrame) -> list[str]:
    """Mean of each quantity over images and seeds, by row; then, for each difference, its estimate over the seeds.

    Seeds share their images, so a difference also has a standard error over the images, that of its mean over seeds.
    """
    parts = {
        "log p(x)": nats["log_p"],
        "best ELBO of the family": nats["best_elbo"],
        "ELBO": nats["elbo"],
        "IWAE, K = 10": nats["iwae_10"],
        "IWAE, K = 100": nats["iwae_100"],
        "IWAE, K = 1000": nats["iwae_1000"],
        "approximation gap": nats["log_p"] - nats["best_elbo"],
        "amortisation gap": nats["best_elbo"] - nats["elbo"],
    }
    each = nats[["row", "seed", "image"]].assign(**parts)
    lines = ["| row | seeds | " + " | ".join(parts) + " |", "|---" * (2 + len(parts)) + "|"]
    by_row = {
        str(row): cell.pivot(index="seed", columns="image", values=list(parts))
        for row, cell in each.groupby("row", sort=False)
    }
    for row, cell in by_row.items():
        lines.append(
            f"| {row} | {len(cell)} | " + " | ".join(f"{cell[name].to_numpy().mean():.1f}" for name in parts) + " |"
        )
    for row, other in GAP_PAIRS:
        if {row, other} <= set(by_row):
            seeds = by_row[row].index.intersection(by_row[other].index)
            a, b = by_row[row].loc[seeds], by_row[other].loc[seeds]
            cells = [
                f"{paired_text(a[name].mean(axis=1), b[name].mean(axis=1))} ± {(a[name] - b[name]).mean().sem():.1f}"
                for name in parts
            ]
            lines.append(f"| {row} − {other} | {len(seeds)} | " + " | ".join(cells) + " |")
    return lines


def paired_text(a: pd.Series, b: pd.Series, with_p: bool = False) -> str:
    """Hodges-Lehmann estimate of a - b over shared seeds; with enough pairs also its confidence interval, and p."""
    where = location(a, b)
    if np.isnan(where.low):
        return f"{where.estimate:+.1f}"
    p = f", p = {wilcoxon_greater(a, b).p:.3g}" if with_p else ""
    return f"{where.estimate:+.1f} [{where.low:+.1f}, {where.high:+.1f}]{p}"


def main() -> None:
    files = [HERE / "runs.csv", HERE / "longer.csv"]
    runs, points = pd.concat(map(read_runs, files)), pd.concat(read_points(curves_path(file)) for file in files)
    scores = by_label(runs)
    tables = [score_lines(scores), difference_lines(scores, SCORE_PAIRS)]
    tables += [search_lines(pd.read_csv(HERE / "search.csv")), patience_lines(runs, points)]
    tables += [head_room_lines(pd.read_csv(HERE / "head_room.csv")), gap_lines(pd.read_csv(HERE / "nats.csv"))]
    runs, points = read_runs(RIVALS / "runs.csv"), read_points(curves_path(RIVALS / "runs.csv"))
    scores = by_label(runs)
    tables += [score_lines(scores), difference_lines(scores, RIVAL_PAIRS), patience_lines(runs, points)]
    print("\n\n".join("\n".join(table) for table in tables))


if __name__ == "__main__":
    main()
