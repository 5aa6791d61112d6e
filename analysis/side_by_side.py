"""Several experiments side by side: what each cell's mean became, and which settings differ between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from analysis import freshness, listing, page, render
from analysis.cells import cell_of
from analysis.listing import Listing, Value
from analysis.names import CELL
from analysis.render import p_text
from analysis.runs import COLUMNS, SETTINGS, CollectError
from analysis.signed_rank import LEVEL, location, smallest_p, wilcoxon_greater
from analysis.stats import LABELS
from analysis.tables import DATASETS, SCORES, place, slug, sort_rows
from analysis.time_tables import is_timing
from analysis.words import counted

_MADE_WITH = ["git_commit", "torch_version", "python_version", "device"]
_NOT_COMPARED = (set(COLUMNS) - set(SETTINGS) - set(_MADE_WITH)) | {"seed"}
_RENDERERS = {
    "md": listing.to_markdown, "csv": listing.to_csv, "tex": listing.to_latex, "txt": listing.to_text,
}  # fmt: skip
_CELLS_NAMED = 4

Cell = tuple[object, ...]


@dataclass(frozen=True)
class Experiment:
    """A name, and trainings as from `analysis.collect.collect`."""

    name: str
    runs: pd.DataFrame


@dataclass(frozen=True)
class SideBySide:
    """Experiments side by side.

    Attributes:
        names: of the experiments; the first is what the others are compared with.
        answer: the findings, a sentence for each other experiment.
        scores: for each other experiment the cells that it shares with the first, with both means and the difference.
        settings: what differs between the experiments in those cells; None if nothing does.
        alone: the cells that not all experiments have; None without any.
    """

    names: list[str]
    answer: list[str]
    scores: list[Listing]
    settings: Listing | None
    alone: Listing | None

    @property
    def lists(self) -> list[Listing]:
        """All lists, in the page's order."""
        return [*self.scores, *(each for each in (self.settings, self.alone) if each is not None)]


def compare(experiments: Sequence[Experiment], score: str = "test_iwae") -> SideBySide:
    """Compare each experiment with the first, cell by cell.

    Args:
        experiments: two or more, with distinct names.
        score: a key of `analysis.tables.SCORES`.

    Raises:
        CollectError: an experiment has no training, or shares no cell with the first.
    """
    scored = [Experiment(each.name, each.runs[~is_timing(each.runs)]) for each in experiments]
    for each in scored:
        if each.runs.empty:
            raise CollectError(f"{each.name} has no training to compare, only timings")
    first, *others = scored
    answer, lists = [], []
    for other in others:
        theirs = set(_cells(other.runs))
        common = [cell for cell in _cells(first.runs) if cell in theirs]
        if not common:
            raise CollectError(
                f"{first.name} and {other.name} have no cell in common (method, order, variant, data set, dim and "
                f"decoder): {first.name} has {_named(first.runs, _cells(first.runs))}; {other.name} has "
                f"{_named(other.runs, _cells(other.runs))}"
            )
        sentence, scores = _scores(first, other, common, score, len(others) > 1)
        answer.append(sentence)
        lists.append(scores)
    return SideBySide([each.name for each in scored], answer, lists, _settings(scored), _alone(scored))


# ---------------------------------------------------------------------- cells
def _cells(runs: pd.DataFrame) -> list[Cell]:
    """The keys of the cells, in the paper's order."""
    ordered = sort_rows(runs.drop_duplicates(CELL)).to_dict("records")
    dims = sorted(ordered, key=lambda run: (place(str(run["dataset"]), DATASETS), str(run["decoder"]), int(run["dim"])))
    return [cell_of(run) for run in dims]


def _by_cell(runs: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    runs = runs[[*CELL, "seed", *LABELS, *SCORES]]  # of some 50 columns, which cost most of the time
    keys = pd.Series([cell_of(run) for run in runs[CELL].to_dict("records")], index=runs.index)
    return {key: runs.loc[index] for key, index in keys.groupby(keys).groups.items()}  # type: ignore[misc]


def _where(run: pd.Series) -> str:
    return f"{run['dataset_label']} d{run['dim']}" + ("" if run["decoder"] == "conv" else f" {run['decoder']}")


def _named(runs: pd.DataFrame, cells: Iterable[Cell]) -> str:
    """`MNIST d10 VAE, MNIST d10 RME(2)`, and how many more."""
    of = _by_cell(runs)
    names = [f"{_where(of[cell].iloc[0])} {of[cell].iloc[0]['method_label']}" for cell in cells]
    more = len(names) - _CELLS_NAMED
    if more > 1:
        names = [*names[:_CELLS_NAMED], f"{more} more"]
    return ("; " if any(", " in name for name in names) else ", ").join(names)


# ---------------------------------------------------------------------- scores
def _scores(
    first: Experiment, other: Experiment, common: Sequence[Cell], score: str, several: bool
) -> tuple[str, Listing]:
    """A sentence, and the list of the cells that both have."""
    ours, theirs = _by_cell(first.runs), _by_cell(other.runs)
    rows: list[list[Value]] = []
    datasets, above, below, tested = [], 0, 0, 0
    for cell in common:
        before, after = (_finite(of[cell], score) for of in (ours, theirs))
        run = ours[cell].iloc[0]
        found = location(after, before)
        p = _two_sided(after, before)
        difference = _average(after) - _average(before)
        interval = "" if np.isnan(found.low) else f"[{found.low:+.2f}, {found.high:+.2f}]"
        if not np.isnan(p):
            tested += 1
            above += p <= LEVEL and found.estimate > 0
            below += p <= LEVEL and found.estimate < 0
        rows.append([
            _where(run), str(run["method_label"]), _mean(before), _mean(after), difference,
            found.estimate, interval, "" if np.isnan(p) else p_text(p), str(found.n_pairs),
        ])  # fmt: skip
        datasets.append(str(run["dataset"]))
    both = first.runs.merge(other.runs, on="run_key", suffixes=("", "_other"))
    same = int((both[score] == both[f"{score}_other"]).sum())
    caption = (
        f"{SCORES[score]}, nats per image: mean ± standard deviation (number of seeds). Difference of means: "
        f"{other.name} minus {first.name}, over all seeds. Paired: Hodges-Lehmann estimate over the seeds that both "
        "have, its confidence interval, and p of the two-sided Wilcoxon signed-rank test, uncorrected; empty if the "
        "pairs are too few. Runs of one seed share the validation images, and with equal settings the initialisation; "
        "nothing else pairs them."
    )
    if same:
        caption += f" {same} run{' is' if same == 1 else 's are'} the same in both, so their difference is 0."
    outcome = (
        f"of the {tested} with enough pairs for a test, {above} significantly higher and {below} significantly lower "
        f"(p ≤ {LEVEL}, two-sided, paired by seed)"
        if tested
        else "the pairs are too few for a test"
    )
    cells = f"{counted(len(common), 'cell')} in common"
    sentence = f"{other.name} against {first.name}: {cells}; {outcome}."
    name = "side-by-side" + (f"-{slug(other.name)}" if several else "")
    title = f"{other.name} against {first.name}"
    header = ["Where", "Row", first.name, other.name, "Difference of means", "Paired (Hodges-Lehmann)", "Interval", "p",
              "Pairs"]  # fmt: skip
    return sentence, Listing(name, title, caption, header, rows, labels=(1,), datasets=datasets)


def _finite(runs: pd.DataFrame, score: str) -> dict[int, float]:
    scored = runs[np.isfinite(runs[score].astype(float))]
    return {int(seed): float(value) for seed, value in zip(scored["seed"], scored[score], strict=True)}


def _average(scores: dict[int, float]) -> float:
    return sum(scores.values()) / len(scores) if scores else np.nan


def _mean(scores: dict[int, float]) -> str:
    """`684.2 ± 3.3 (8)`: mean, standard deviation and number of seeds."""
    if not scores:
        return "no score"
    sd = f" ± {np.std(list(scores.values()), ddof=1):.1f}" if len(scores) > 1 else ""
    return f"{_average(scores):.1f}{sd} ({len(scores)})"


def _two_sided(a: dict[int, float], b: dict[int, float]) -> float:
    """p of the two-sided signed-rank test: twice the smaller one-sided p; NaN if no p of .05 is possible."""
    up, down = wilcoxon_greater(a, b), wilcoxon_greater(b, a)
    if 2 * smallest_p(up.n_pairs - up.n_zero) > LEVEL:
        return np.nan
    return min(1.0, 2 * min(up.p, down.p))


# ---------------------------------------------------------------------- settings
def _settings(experiments: Sequence[Experiment]) -> Listing | None:
    """The fields whose values differ between experiments in a cell that two of them have; each difference once."""
    by_cell = [_by_cell(each.runs) for each in experiments]
    differences: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    everything = pd.concat([each.runs for each in experiments], ignore_index=True)
    shared = [cell for cell in _cells(everything) if sum(cell in of for of in by_cell) > 1]
    values = [_values_by_cell(each.runs) for each in experiments]
    fields = list(dict.fromkeys(name for of in values for name in of))
    for field in sorted(fields, key=lambda name: (name in _MADE_WITH, fields.index(name))):
        for cell in shared:
            found = tuple(
                of.get(field, {}).get(cell, _UNKNOWN) if cell in runs else ""
                for of, runs in zip(values, by_cell, strict=True)
            )
            if len({value for value, runs in zip(found, by_cell, strict=True) if cell in runs}) > 1:
                differences[field, *found].append(cell)
    if not differences:
        return None
    rows: list[list[Value]] = []
    for (field, *each_value), cells in differences.items():
        where = f"all {len(shared)} cells" if len(cells) == len(shared) > 1 else _named(everything, cells)
        rows.append([field, *each_value, where])
    caption = "Settings and software that differ in cells that are compared; a dash: not recorded, or not used."
    header = ["Setting", *(each.name for each in experiments), "Cells"]
    return Listing("side-by-side-settings", "What differs between the experiments", caption, header, rows)


_UNKNOWN = "–"


def _values_by_cell(runs: pd.DataFrame) -> dict[str, dict[Cell, str]]:
    """By field and cell the values of its runs, numbers written alike."""
    keys = [cell_of(run) for run in runs[CELL].to_dict("records")]
    found: dict[str, dict[Cell, str]] = {}
    for field in runs.columns:
        if field not in _NOT_COMPARED:
            of: dict[Cell, set[object]] = defaultdict(set)
            for key, value in zip(keys, runs[field].astype(object), strict=True):
                of[key].add(None if pd.isna(value) else value)
            words = {key: sorted({_plain(value) for value in each if value is not None}) for key, each in of.items()}
            found[field] = {key: ", ".join(each) or _UNKNOWN for key, each in words.items()}
    return found


def _plain(value: object) -> str:
    try:
        return f"{float(value):.12g}"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def _alone(experiments: Sequence[Experiment]) -> Listing | None:
    """The cells that not all experiments have."""
    by_cell = [_by_cell(each.runs) for each in experiments]
    everything = pd.concat([each.runs for each in experiments], ignore_index=True)
    rows: list[list[Value]] = []
    datasets = []
    for cell in _cells(everything):
        have = [of[cell] for of in by_cell if cell in of]
        if len(have) < len(experiments):
            run = have[0].iloc[0]
            counts = [_seeds(of[cell]) if cell in of else "–" for of in by_cell]
            rows.append([_where(run), str(run["method_label"]), *counts])
            datasets.append(str(run["dataset"]))
    if not rows:
        return None
    header = ["Where", "Row", *(each.name for each in experiments)]
    return Listing("side-by-side-alone", "Cells that not all experiments have", "Number of seeds of each cell.",
                   header, rows, labels=(1,), datasets=datasets)  # fmt: skip


def _seeds(runs: pd.DataFrame) -> str:
    return counted(runs["seed"].nunique(), "seed")


# ---------------------------------------------------------------------- files
def names_of(paths: Sequence[Path]) -> list[str]:
    """Names for files of runs: the file's, or its folder's if the file is `runs.csv`; of equal names, the paths."""
    names = [path.stem if path.stem != "runs" else path.resolve().parent.name for path in paths]
    return [str(path) if names.count(name) > 1 else name for name, path in zip(names, paths, strict=True)]


def print_to(console: Console, compared: SideBySide, index: Path) -> None:
    """Print the lists and findings, and the path of the page in the last line."""
    for each in compared.lists:
        console.print(listing.to_rich(each))
    console.print("\n".join(compared.answer), soft_wrap=True)
    console.print(f"\nreport: {index}", soft_wrap=True)


def write(compared: SideBySide, out: Path) -> Path:
    """Write the page `out/index.html`, and each list as files in `out/tables`. Returns the page. OSError propagates."""
    (out / "tables").mkdir(parents=True, exist_ok=True)
    freshness.begin(out)
    files = {
        f"{each.name}.{suffix}": to_format(each) for each in compared.lists for suffix, to_format in _RENDERERS.items()
    }
    for name, text in (files | {"answer.txt": "\n".join(compared.answer) + "\n"}).items():
        (out / "tables" / name).write_text(text, encoding="utf-8", newline="")
    datasets = {
        name: label
        for each in compared.scores
        for name, label in zip(each.datasets, (str(row[0]).rpartition(" d")[0] for row in each.rows), strict=True)
    }
    text = render.templates.get_template("side_by_side.html.j2").render(
        names=compared.names,
        answer=compared.answer,
        lists=compared.lists,
        datasets=datasets,
        list_html=listing.to_page_html,
        packed=page.pack([], {name: text for name, text in files.items() if not name.endswith(".txt")}),
        **page.assets(),
    )
    index = out / "index.html"
    index.write_text(text, encoding="utf-8")
    freshness.leave(out, "a comparison", [index, *(out / "tables" / name for name in [*files, "answer.txt"])])
    return index
