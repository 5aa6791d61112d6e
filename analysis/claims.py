"""The paper's claims, checked by our runs: held, not held, or undecided; and whether training longer explains them.

The paper's methods start from a finished VAE and train further. So a claim that a row is above others says little
unless the row is also above its control, the VAE trained as long at the same rate (`analysis.trainings.equal_control`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.names import CELL, COLUMN, CONTROL
from analysis.paper import published_scores, published_times
from analysis.signed_rank import LEVEL, location, paired, smallest_p, wilcoxon_greater
from analysis.stats import summarise
from analysis.tables import DATASETS, METHODS, fullest, method_of_label, place
from analysis.time_tables import summarise_times
from analysis.trainings import NO_CONTROL, Key, by_row, equal_control, key_of, trainings
from analysis.words import counted

HELD, NOT_HELD = "held", "not held"
NOT_ABOVE = "held, but not above its control"
TOO_FEW, NOT_RUN = "not enough runs", "not run"

STATUSES = (HELD, NOT_ABOVE, NOT_HELD, TOO_FEW, NOT_RUN)
"""The statuses of a claim. The first three are verdicts, which need enough runs for a test."""

UNKNOWN = "–"
"""For columns that the paper does not have, or whose numbers it does not give, or not legibly."""

STRONG = 0.01
"""The p up to which a difference counts as strongly distinguished in the paper's tables."""


@dataclass(frozen=True)
class Claim:
    """A claim about one column.

    Attributes:
        statement: what is claimed; where: data set, dim and decoder; source: where the paper claims it.
        status: one of `STATUSES`, by our runs.
        evidence: the numbers behind the status.
        published: whether it holds by the paper's own means and times: `HELD`, `NOT_HELD` or `UNKNOWN`.
        control: whether the claim is over the equal control, which the paper does not have.
        dataset: name of the column's data set.
        in_paper: whether the paper has the column.
    """

    statement: str
    where: str
    source: str
    status: str
    evidence: str
    published: str = UNKNOWN
    control: bool = False
    dataset: str = ""
    in_paper: bool = False


def title(claims: list[Claim]) -> str:
    """`The paper's claims`, or `Claims` if no column is one of the paper's."""
    return "The paper's claims" if any(claim.in_paper for claim in claims) else "Claims"


def count(claims: list[Claim]) -> str:
    """`The paper's claims, checked in these columns: 7 held, 3 not held.`, and a sentence on those over the control."""
    sentences = []
    of_paper = any(claim.in_paper for claim in claims)
    controls = "Against the control" + (" (not in the paper)" if of_paper else "")
    subjects = {False: f"{title(claims)}, checked in these columns", True: controls}
    for control, subject in subjects.items():
        statuses = Counter(claim.status for claim in claims if claim.control == control)
        if statuses:
            parts = [f"{statuses[status]} {status}" for status in STATUSES if statuses[status]]
            sentences.append(f"{subject}: {', '.join(parts)}.")
    return " ".join(sentences)


# ---------------------------------------------------------------------- scores
def score_claims(runs: pd.DataFrame, score: str = "test_iwae", expected_seeds: int | None = None) -> list[Claim]:
    """The claims about log-likelihood: Tables 7-11, and section 3 (Table 5) for fully connected decoders.

    A claim has a verdict only if every cell that it is about has all its runs, and enough pairs for the claim's p, or
    for .05 if it states none. Rows of the paper that were not run are not rivals; the evidence says how many were run.
    A claim is `NOT_ABOVE` if it holds, but its row is not significantly above its control, at the same p.

    Args:
        runs: one row for each run, as `analysis.collect.collect` returns them.
        score: column of the score, nats; higher is better.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell of `runs` has.
    """
    expected = expected_seeds or fullest(runs)
    columns = [_Scores(column, score, expected) for _, column in runs.groupby(COLUMN)]
    columns.sort(key=lambda c: (c.decoder, place(c.dataset, DATASETS), c.dim))
    claims = [
        replace(claim, dataset=column.dataset, in_paper=bool(column.paper))
        for column in columns
        for claim in _of_column(column)
    ]
    convolutional = {(c.dataset, c.dim): c for c in columns if c.decoder == "conv"}
    for column in columns:
        other = convolutional.get((column.dataset, column.dim))
        if column.decoder == "fc" and other is not None:
            both = _vae_above_vlae(other, column), _convolutional_above(other, column)
            claims += [replace(claim, dataset=column.dataset, in_paper=bool(column.paper)) for claim in both]
    return claims


def _of_column(column: _Scores) -> Iterator[Claim]:
    if column.decoder == "conv":
        yield column.highest("rme", "Section 2, Tables 7-11")
        for rival in METHODS:
            if rival not in ("rme", "vlae") and (column.has(rival) or rival in column.published):
                yield column.better("rme", rival, "Tables 7-11")
    else:
        yield column.highest("vlae", "Section 3, Table 5")
        yield column.better("rme", "vae", "Section 3, Table 5")
    yield column.above_control("rme")


class _Scores:
    """One column: the cells of our runs, and the paper's means."""

    def __init__(self, runs: pd.DataFrame, score: str, expected: int) -> None:
        first = runs.iloc[0]
        self.dataset, self.dim, self.decoder = first["dataset"], int(first["dim"]), first["decoder"]
        self.where = f"{first['dataset_label']} dim {self.dim}" + ("" if self.decoder == "conv" else ", FC decoder")
        cells = summarise(runs, score)
        self.expected = expected
        self.cells = {key_of(cell): cell for cell in cells.to_dict("records")}
        self.scores = {key: of_row.set_index("seed")[score] for key, of_row in by_row(runs).items()}
        known = trainings(runs)
        self.controls = {key: equal_control(key, known) for key in self.cells}
        self.rows = [key for key in self.cells if key[0] != CONTROL and known[key].is_trained]
        theirs = published_scores()
        at = (theirs["dataset"] == self.dataset) & (theirs["dim"] == self.dim) & (theirs["decoder"] == self.decoder)
        self.paper = {key_of(cell): float(cell["mean"]) for cell in theirs[at].to_dict("records")}
        self.published = {key[0] for key in self.paper}

    def has(self, method: str) -> bool:
        return any(key[0] == method for key in self.cells)

    def label(self, key: Key) -> str:
        return self.cells[key]["method_label"]

    def of(self, method: str) -> list[Key]:
        """The rows of a method."""
        return [key for key in self.cells if key[0] == method]

    def best(self, method: str) -> Key | None:
        """The row of a method with the highest mean; None without a score."""
        scored = [key for key in self.of(method) if self.cells[key]["n"]]
        return max(scored, key=lambda key: self.cells[key]["mean"], default=None)

    def incomplete(self, keys: list[Key]) -> str:
        """The rows that lack runs, `RME(2) n=3/10`; empty if none does."""
        few = [k for k in keys if self.cells[k]["n"] < self.expected]
        shown = ", ".join(f"{self.label(k)} n={self.cells[k]['n']}/{self.expected}" for k in few[:3])
        return shown + (f" and {len(few) - 3} more" if len(few) > 3 else "")

    def highest(self, method: str, source: str) -> Claim:
        """The method's best mean is above those of all other trained rows but `vae-more`."""
        statement = f"{method.upper()} has the highest mean"
        rows = self.rows
        rivals = [key for key in rows if key[0] != method]
        published = _published(self.paper, method, lambda name: name != method)
        ours = self.best(method)

        def claim(status: str, evidence: str) -> Claim:
            return Claim(statement, self.where, source, status, evidence, published)

        if not self.of(method) or not rivals:
            ran = bool(self.of(method))
            return claim(NOT_RUN, "no other method was run" if ran else f"{method.upper()} was not run")
        incomplete = self.incomplete(rows)
        if ours is None or incomplete:
            return claim(TOO_FEW, incomplete)
        rival = max(rivals, key=lambda key: self.cells[key]["mean"])
        mean, other = (self.cells[key]["mean"] for key in (ours, rival))
        evidence = f"{self.label(ours)} {mean:.1f}, best of the other methods {self.label(rival)} {other:.1f} nats"
        if self.paper:
            evidence += f"; {len(set(rows) & set(self.paper))} of the paper's {len(self.paper)} rows were run"
        few = self.too_few(ours, [rival], LEVEL)
        if few:
            return claim(TOO_FEW, f"{few}; {evidence}")
        if mean <= other:
            return claim(NOT_HELD, evidence)
        control = self.controls[ours]
        if control is None:
            return claim(HELD, f"{evidence}; {NO_CONTROL}")
        if incomplete := self.incomplete([control]) or self.too_few(ours, [control], LEVEL):
            return claim(TOO_FEW, f"{evidence}; its control: {incomplete}")
        # significance, because one of two equal rows always has the higher mean
        _, p, shown = self.least_significant(ours, [control])
        evidence += f"; against its control, {self._difference(ours, control)}, {shown}"
        return claim(HELD if p <= LEVEL else NOT_ABOVE, evidence)

    def better(self, method: str, rival: str, source: str) -> Claim:
        """The method's best row is better than every row of the rival, by the one-sided paired Wilcoxon test."""
        statement = f"{method.upper()} is better than {self._name(rival)} (p ≤ {STRONG})"
        published = _published(self.paper, method, lambda name: name == rival)
        ours, rows = self.best(method), self.of(rival)

        def claim(status: str, evidence: str) -> Claim:
            return Claim(statement, self.where, source, status, evidence, published)

        if not self.of(method) or not rows:
            return claim(NOT_RUN, f"{self._name(rival) if self.of(method) else method.upper()} was not run")
        incomplete = self.incomplete([*self.of(method), *rows])
        if ours is None or incomplete:
            return claim(TOO_FEW, incomplete)
        few = self.too_few(ours, rows, STRONG)
        if few:
            return claim(TOO_FEW, f"{few}; {self._difference(ours, self.best(rival))}")
        closest, p, shown = self.least_significant(ours, rows)
        evidence = f"{self._difference(ours, closest)}, {shown}"
        if not p <= STRONG:
            return claim(NOT_HELD, evidence)
        control = self.controls[ours]
        if control is None:
            return claim(HELD, f"{evidence}; {NO_CONTROL}")
        if all(key == control or self.controls[key] == control for key in rows):
            return claim(HELD, evidence)  # equal training: the comparison needs no control
        if incomplete := self.incomplete([control]) or self.too_few(ours, [control], STRONG):
            return claim(TOO_FEW, f"{evidence}; its control: {incomplete}")
        _, p, shown = self.least_significant(ours, [control])
        evidence += f"; against its control, {self._difference(ours, control)}, {shown}"
        return claim(HELD if p <= STRONG else NOT_ABOVE, evidence)

    def above_control(self, method: str) -> Claim:
        """The method's best row is better than its equal control; not a claim of the paper."""
        statement = f"{method.upper()} is better than its control (p ≤ {STRONG})"
        ours = self.best(method)

        def claim(status: str, evidence: str) -> Claim:
            return Claim(statement, self.where, "control", status, evidence, control=True)

        if ours is None:
            if not self.of(method):
                return claim(NOT_RUN, f"{method.upper()} was not run")
            return claim(TOO_FEW, self.incomplete(self.of(method)))
        control = self.controls[ours]
        if control is None:
            return claim(NOT_RUN, f"{NO_CONTROL} for {self.label(ours)}")
        incomplete = self.incomplete([*self.of(method), control])
        if incomplete:
            return claim(TOO_FEW, incomplete)
        if few := self.too_few(ours, [control], STRONG):
            return claim(TOO_FEW, f"{few}; {self._difference(ours, control)}")
        _, p, shown = self.least_significant(ours, [control])
        return claim(HELD if p <= STRONG else NOT_HELD, f"{self._difference(ours, control)}, {shown}")

    def too_few(self, ours: Key, rows: list[Key], level: float) -> str:
        """Why a test against one of the rows has too few pairs for a p of `level`; empty if all have enough."""
        found = (_few_pairs(self.scores[ours], self.scores[key], level) for key in rows)
        return next(filter(None, found), "")

    def least_significant(self, ours: Key, rows: list[Key]) -> tuple[Key, float, str]:
        """The row against which ours has the largest p, that p, and it in words. Of equal p, the highest mean counts.

        p is equal, the smallest possible, for all rows that ours is above in every seed.
        """
        tests = {key: wilcoxon_greater(self.scores[ours], self.scores[key]) for key in rows}
        row = max(rows, key=lambda key: (1.0 if np.isnan(tests[key].p) else tests[key].p, self.cells[key]["mean"]))
        p = tests[row].p
        return row, p, tests[row].note if np.isnan(p) else f"p = {p:.2g}"

    def _name(self, method: str) -> str:
        keys = self.of(method)
        return method_of_label(self.label(keys[0])) if keys else method.upper()

    def _difference(self, ours: Key, rival: Key | None) -> str:
        """`RME(5) − VAE: +12.1 nats [+10.2, +14.0] (Hodges-Lehmann)`, paired by seed."""
        if rival is None:
            return ""
        found = location(self.scores[ours], self.scores[rival])
        interval = "" if np.isnan(found.low) else f" [{found.low:+.1f}, {found.high:+.1f}]"
        return f"{self.label(ours)} − {self.label(rival)}: {found.estimate:+.1f} nats{interval} (Hodges-Lehmann)"


def _few_pairs(a: pd.Series, b: pd.Series, level: float = LEVEL) -> str:
    """`the smallest p that 6 pairs can give is 0.016`, if that is above the level; else empty."""
    pairs = len(paired(a, b))
    if smallest_p(pairs) <= level:
        return ""
    return f"the smallest p that {counted(pairs, 'pair')} can give is {smallest_p(pairs):.2g}"


def _published(means: dict[Key, float], method: str, is_rival: Callable[[str], bool]) -> str:
    """Whether the method's best mean is above every rival's in the paper's table: `HELD`, `NOT_HELD` or `UNKNOWN`."""
    ours = [mean for (name, *_), mean in means.items() if name == method]
    rivals = [mean for (name, *_), mean in means.items() if is_rival(name)]
    if not ours or not rivals or np.isnan(ours).any():
        return UNKNOWN
    if (np.array(rivals) >= max(ours)).any():  # one legible mean is enough
        return NOT_HELD
    return UNKNOWN if np.isnan(rivals).any() else HELD


def _vae_above_vlae(conv: _Scores, fc: _Scores) -> Claim:
    """Section 3: the VAE with a convolutional decoder is above the best VLAE with a fully connected one."""
    statement = "The VAE with a convolutional decoder is above the best VLAE with a fully connected one"
    theirs, their_vae = [mean for (name, *_), mean in fc.paper.items() if name == "vlae"], ("vae", None, None)
    published = _holds(conv.paper[their_vae] > max(theirs)) if theirs and their_vae in conv.paper else UNKNOWN
    vae, vlae, where = conv.best("vae"), fc.best("vlae"), conv.where
    if not conv.of("vae") or not fc.of("vlae"):
        missing = "VLAE" if conv.of("vae") else "VAE"
        return Claim(statement, where, "Section 3", NOT_RUN, f"{missing} was not run", published)
    incomplete = conv.incomplete(conv.of("vae")) or fc.incomplete(fc.of("vlae"))
    if vae is None or vlae is None or incomplete:
        return Claim(statement, where, "Section 3", TOO_FEW, incomplete, published)
    means = conv.cells[vae]["mean"], fc.cells[vlae]["mean"]
    evidence = f"VAE {means[0]:.1f}, {fc.label(vlae)} {means[1]:.1f} nats"
    if few := _few_pairs(conv.scores[vae], fc.scores[vlae]):
        return Claim(statement, where, "Section 3", TOO_FEW, f"{few}; {evidence}", published)
    return Claim(statement, where, "Section 3", _holds(means[0] > means[1]), evidence, published)


def _convolutional_above(conv: _Scores, fc: _Scores) -> Claim:
    """Section 3: with equal numbers of parameters, convolutional decoders always outperform fully connected ones."""
    statement = "Every row is higher with the convolutional decoder than with the fully connected one"
    theirs = [conv.paper[key] > fc.paper[key] for key in conv.paper.keys() & fc.paper.keys()]
    published = _holds(all(theirs)) if theirs else UNKNOWN
    both = sorted(set(conv.rows) & set(fc.rows), key=str)
    if not both:
        return Claim(statement, conv.where, "Section 3", NOT_RUN, "no row was run with both", published)
    incomplete = conv.incomplete(both) or fc.incomplete(both)
    if incomplete:
        return Claim(statement, conv.where, "Section 3", TOO_FEW, incomplete, published)
    gain = {key: conv.cells[key]["mean"] - fc.cells[key]["mean"] for key in both}
    least = min(both, key=lambda key: gain[key])
    evidence = f"least gain {gain[least]:+.1f} nats ({conv.label(least)}), of {len(both)} rows"
    if few := next(filter(None, (_few_pairs(conv.scores[key], fc.scores[key]) for key in both)), ""):
        return Claim(statement, conv.where, "Section 3", TOO_FEW, f"{few}; {evidence}", published)
    return Claim(statement, conv.where, "Section 3", _holds(gain[least] > 0), evidence, published)


# ---------------------------------------------------------------------- times
def time_claims(runs: pd.DataFrame) -> list[Claim]:
    """The claims about inference time, for each device: section 2.1 (Table 4) and section 3 (Table 6).

    Args:
        runs: timings, as `analysis.collect.collect` returns them. A claim is about the orders that were timed.
    """
    times, ratios = (summarise_times(runs, score) for score in ("inference_ms", "ratio_to_vae"))
    cells = times.merge(ratios[[*CELL, "device", "mean"]], on=[*CELL, "device"], suffixes=("_ms", "_ratio"))
    cells = cells.rename(columns={"mean_ms": "ms", "mean_ratio": "ratio"})
    several = cells["device"].nunique() > 1
    claims: list[Claim] = []
    for (device, _, decoder, _), ours in cells.groupby(["device", "dataset", "decoder", "dim"], sort=False):
        first = ours.iloc[0]
        theirs = published_times().merge(ours[COLUMN].drop_duplicates(), on=COLUMN)
        where = f"{first['dataset_label']} dim {first['dim']}" + ("" if decoder == "conv" else ", FC decoder")
        where += f", {device}" if several else ""
        for statement, test, source, applies in _time_tests(theirs):
            published, _ = test(theirs)
            if applies == decoder and (published is not None or test(ours)[0] is not None):
                holds, evidence = test(ours)
                status = NOT_RUN if holds is None else _holds(holds)
                theirs_holds = UNKNOWN if published is None else _holds(published)
                claim = Claim(statement, where, source, status, evidence, theirs_holds, dataset=first["dataset"])
                claims.append(replace(claim, in_paper=len(theirs) > 0))
    return claims


_Test = Callable[[pd.DataFrame], tuple[bool | None, str]]


def _time_tests(theirs: pd.DataFrame) -> list[tuple[str, _Test, str, str]]:
    """(statement, test, source, decoder) of each claim. A test of cells returns (held, evidence), or (None, reason)."""
    found: list[tuple[str, _Test, str, str]] = []
    rme = theirs[theirs["method"] == "rme"]
    if rme["ratio"].notna().any():
        most, spread = rme["ratio"].max(), rme["ms"].max() / rme["ms"].min()
        found.append(("RME takes no larger multiple of the VAE's time than the paper's largest",
                      lambda cells: _at_most(cells, most), "Section 2.1", "conv"))  # fmt: skip
        found.append(("RME's order hardly matters: no larger spread from fastest to slowest than the paper's",
                      lambda cells: _spread(cells, spread), "Section 2.1", "conv"))  # fmt: skip
    found.append(("SA is many times slower: SA(k) takes more than k + 1 times the VAE's time", _slow, "Section 2.1",
                  "conv"))  # fmt: skip
    found.append(("SA's time grows with its steps", _grows, "Section 2.1", "conv"))
    found.append(("RME is faster than IAF with more than one flow", _faster_than_flows, "Section 2.1", "conv"))
    found.append(("VLAE with 4 or 8 steps is slower than RME", _slower_than_rme, "Section 3, Table 6", "fc"))
    return found


def _timed(cells: pd.DataFrame, method: str, column: str, least_order: int = 0) -> pd.Series:
    """The `column` of a method's cells, by order, from `least_order`."""
    chosen = cells[(cells["method"] == method) & (cells["order"].fillna(0) >= least_order)].set_index("order")[column]
    return chosen.dropna().sort_index()


def _at_most(cells: pd.DataFrame, most: float) -> tuple[bool | None, str]:
    ratios = _timed(cells, "rme", "ratio")
    if ratios.empty:
        return None, "RME was not timed against the VAE"
    # compared as printed: the paper's ratios are quotients of rounded numbers
    return bool(round(ratios.max(), 2) <= round(most, 2)), f"{_shown('RME', ratios, '× ')}; at most {most:.2f}×"


def _spread(cells: pd.DataFrame, most: float) -> tuple[bool | None, str]:
    ms = _timed(cells, "rme", "ms")
    if len(ms) < 2:
        return None, "fewer than two orders of RME were timed"
    ratio = ms.max() / ms.min()
    return bool(round(ratio, 2) <= round(most, 2)), f"{_shown('RME', ms, ' ms')}: {ratio:.2f}×, at most {most:.2f}×"


def _slow(cells: pd.DataFrame) -> tuple[bool | None, str]:
    ratios = _timed(cells, "sa", "ratio")
    if ratios.empty:
        return None, "SA was not timed against the VAE"
    return bool((ratios > ratios.index.to_numpy(dtype=float) + 1).all()), _shown("SA", ratios, "× ")


def _grows(cells: pd.DataFrame) -> tuple[bool | None, str]:
    ms = _timed(cells, "sa", "ms")
    if len(ms) < 2:
        return None, "fewer than two orders of SA were timed"
    return bool((np.diff(ms.to_numpy(dtype=float)) > 0).all()), _shown("SA", ms, " ms")


def _faster_than_flows(cells: pd.DataFrame) -> tuple[bool | None, str]:
    rme, iaf = _timed(cells, "rme", "ms"), _timed(cells, "iaf", "ms", 2)
    if rme.empty or iaf.empty:
        return None, f"{'RME' if rme.empty else 'IAF with more than one flow'} was not timed"
    return bool(rme.max() < iaf.min()), f"{_shown('RME', rme, ' ms')}; {_shown('IAF', iaf, ' ms')}"


def _slower_than_rme(cells: pd.DataFrame) -> tuple[bool | None, str]:
    rme, vlae = _timed(cells, "rme", "ms"), _timed(cells, "vlae", "ms", 4)
    if rme.empty or vlae.empty:
        return None, f"{'RME' if rme.empty else 'VLAE with 4 or 8 steps'} was not timed"
    return bool(vlae.min() > rme.max()), f"{_shown('VLAE', vlae, ' ms')}; {_shown('RME', rme, ' ms')}"


def _shown(label: str, numbers: pd.Series, unit: str) -> str:
    digits = 2 if unit == "× " else 1
    return ", ".join(f"{label}({order}) {number:.{digits}f}{unit.rstrip()}" for order, number in numbers.items())


def _holds(held: bool) -> str:
    return HELD if held else NOT_HELD
