"""Gains over the VAE, each with the gain of its equal control: the VAE trained as long at the same rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.names import BASELINE, COLUMN, CONTROLS
from analysis.signed_rank import LEVEL, Location, location, paired, smallest_p, wilcoxon_greater
from analysis.stats import difference_frame, difference_row, of_baseline, summarise
from analysis.trainings import NO_CONTROL, Key, by_row, equal_control, key_of, start_of, trainings


@dataclass(frozen=True)
class Gain:
    """One row of a column, compared with the VAE and with the row's equal control, paired by seed.

    The VAE is the one that the row starts from. For a row from scratch, or if that VAE was not run, it is the column's
    baseline.

    Attributes:
        key, label: the row; n: runs that have a score; mean: of their scores, nats.
        start_label: label of the VAE that the row starts from, if that is not the column's baseline; else empty.
        above_vae: mean paired difference row minus VAE, nats; NaN without a pair. Only seeds that the control has too
            count, if there are any.
        is_trained: whether the row is trained at all (`analysis.trainings.Training`).
        control, control_label: the equal control; None and empty without one.
        control_is_vae: whether the control is that VAE itself.
        control_above_vae: mean paired difference control minus VAE, nats, over the same seeds as above_vae.
        above_control: mean paired difference row minus control, nats; NaN without a control or a pair.
        own: estimates of that difference; n_pairs: seeds that row and control share.
        p: of the one-sided Wilcoxon test that the row is above its control; NaN if the pairs cannot give a p of .05.
        n_equal: of those pairs, how many have equal scores, which the test leaves out.
    """

    key: Key
    label: str
    n: int
    mean: float
    start_label: str
    above_vae: float
    is_trained: bool
    control: Key | None
    control_label: str
    control_is_vae: bool
    control_above_vae: float
    above_control: float
    own: Location
    p: float
    n_pairs: int
    n_equal: int

    @property
    def is_control(self) -> bool:
        """Whether the method is a control: it has the VAE's posterior and objective."""
        return self.key[0] in CONTROLS


def gains(column: pd.DataFrame, score: str = "test_iwae") -> list[Gain]:
    """Gain of every row of a column that has a score, except of the baseline VAE.

    Best mean first, as `analysis.stats.compare_column` ranks: rows that have fewer runs than others come last.

    Args:
        column: runs of one (dataset, dim, decoder), as `analysis.collect.collect` returns them.
        score: column of the score, nats; higher is better.
    """
    cells = {key_of(cell): cell for cell in summarise(column, score).to_dict("records")}
    known = trainings(column)
    scores = {key: runs.set_index("seed")[score] for key, runs in by_row(column).items()}
    reference = column[of_baseline(column, BASELINE)]
    vae = key_of(reference.iloc[0]) if len(reference) else None
    found = []
    for key, cell in cells.items():
        if key == vae or not cell["n"]:
            continue
        control = equal_control(key, known)
        start = start_of(key, known) or vae
        own = location(scores[key], scores[control]) if control else location({}, {})
        test = wilcoxon_greater(scores[key], scores[control]) if control else None
        usable = test is not None and smallest_p(test.n_pairs - test.n_zero) <= LEVEL
        found.append(
            Gain(
                key=key,
                label=_label(cell),
                n=int(cell["n"]),
                mean=float(cell["mean"]),
                start_label=_label(cells[start]) if start and start != vae else "",
                above_vae=_mean(_on_shared_seeds(scores, key, control), scores[start]) if start else np.nan,
                is_trained=known[key].is_trained,
                control=control,
                control_label=_label(cells[control]) if control else "",
                control_is_vae=control is not None and control == start,
                control_above_vae=_mean(_on_shared_seeds(scores, control, key), scores[start])
                if control and start
                else np.nan,
                above_control=_mean(scores[key], scores[control]) if control else np.nan,
                own=own,
                p=test.p if test is not None and usable else np.nan,
                n_pairs=own.n_pairs,
                n_equal=test.n_zero if test is not None else 0,
            )
        )
    most = max((int(cell["n"]) for cell in cells.values()), default=0)
    return sorted(found, key=lambda gain: (gain.n < most, -gain.mean))


def control_differences(runs: pd.DataFrame, score: str = "test_iwae") -> pd.DataFrame:
    """Difference of each cell from its equal control, in the columns of `analysis.stats.paired_difference`.

    Cells without a control are left out, and those whose control is the baseline of `paired_difference`.
    """
    rows = []
    for _, column in runs.groupby(COLUMN):
        known, rows_of = trainings(column), by_row(column)
        vae = column[of_baseline(column, BASELINE)]
        for key in known:
            control = equal_control(key, known)
            if control is not None and (vae.empty or control != key_of(vae.iloc[0])):
                rows.append(difference_row(rows_of[key], rows_of[control], score))
    return difference_frame(runs, rows)


def _label(cell: dict) -> str:
    label = cell.get("method_label")
    return str(label if label is not None else cell["method"])


def _on_shared_seeds(scores: Mapping[Key, pd.Series], key: Key, other: Key | None) -> pd.Series:
    """A row's scores for the seeds shared with `other`, so that both gains are over the same seeds; all if none is."""
    own = scores[key].dropna()
    if other is None or not len(common := own[own.index.isin(scores[other].dropna().index)]):
        return own
    return common


def _mean(a: pd.Series, b: pd.Series) -> float:
    difference = paired(a, b)
    return float(difference.mean()) if len(difference) else np.nan


# ---------------------------------------------------------------------- in words
def gain_words(gain: Gain) -> str:
    """`RME(2) is 12.1 nats above the VAE; the VAE that trained on ... is 13.1 above it (mean differences)`.

    Without a control the second part says so. Empty without a VAE to compare with.
    """
    if np.isnan(gain.above_vae):
        return ""
    start = f"{gain.start_label}, the VAE that it starts from" if gain.start_label else "the VAE"
    above = f"{gain.label} is {_above(gain.above_vae, ' nats')} {start}"
    if gain.control is None:
        return f"{above} (mean difference); {NO_CONTROL}"
    if gain.control_is_vae:
        return f"{above}, which was trained at the same rate for as long (mean difference)"
    who = "the VAE that trained on" if gain.control[0] != BASELINE else "the VAE that was trained"
    if np.isnan(gain.control_above_vae):
        return f"{above} (mean difference); {who} at the same rate for as long has no seed in common with it"
    return f"{above}; {who} at the same rate for as long is {_above(gain.control_above_vae)} it (mean differences)"


def own_words(gain: Gain) -> str:
    """`RME(2) − VAE-more: -1.0 nats [-1.4, -0.6] (Hodges-Lehmann), p = 0.98`; empty without a control or a pair."""
    if gain.control is None or gain.own.n_pairs == 0:
        return ""
    interval = "" if np.isnan(gain.own.low) else f" [{gain.own.low:+.1f}, {gain.own.high:+.1f}]"
    p = f", p = {gain.p:.2g}" if not np.isnan(gain.p) else f", {_untested(gain)}"
    estimate = f"{_signed(gain.own.estimate)} nats{interval} (Hodges-Lehmann)"
    return f"{gain.label} − {gain.control_label}: {estimate}{p}"


def _untested(gain: Gain) -> str:
    """Why there is no p: `too few pairs (3) for a test`, `all 9 pairs equal`."""
    if gain.n_equal == gain.n_pairs:
        return "the only pair equal" if gain.n_pairs == 1 else f"all {gain.n_pairs} pairs equal"
    if gain.n_equal:
        return f"too few pairs for a test ({gain.n_equal} of {gain.n_pairs} equal)"
    return f"too few pairs ({gain.n_pairs}) for a test"


def levels_text(found: Iterable[Gain]) -> str:
    """The levels that the intervals attain: `95.3%`, `95.1% to 96.9%`; empty without an interval."""
    levels = sorted(gain.own.level for gain in found if not np.isnan(gain.own.level))
    return " to ".join(dict.fromkeys(f"{100 * level:.1f}%" for level in [*levels[:1], *levels[-1:]]))


def _above(difference: float, unit: str = "") -> str:
    """`12.1 nats above`, `0.3 nats below`."""
    return f"{abs(difference):.1f}{unit} {'below' if round(difference, 1) < 0 else 'above'}"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"
