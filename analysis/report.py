"""`python -m analysis.report`: an experiment's report, as an HTML page and as files of its tables and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis import listing, render
from analysis.claims import Claim, score_claims, time_claims
from analysis.collect import FAILURE_COLUMNS, CollectError, assignment, collect, curves, failures
from analysis.curve_frame import curve_frame
from analysis.evidence import curves_path, read_points, read_runs
from analysis.figure import Figure
from analysis.figures import figures
from analysis.figures.curves import to_read
from analysis.findings import findings
from analysis.listing import Listing, claim_listing, claim_summary, gain_listing, rank_listing, training_listing
from analysis.names import CELL
from analysis.page import render_page
from analysis.paper import paper_ratio_tables, paper_tables
from analysis.ranks import compare_ranks
from analysis.runs import COLUMNS, SETTINGS, frame_of
from analysis.stats import summarise
from analysis.tables import (
    Table,
    control_tables,
    decoder_table,
    difference_tables,
    fullest,
    score_tables,
    sort_rows,
)
from analysis.time_tables import is_timing, time_findings, time_tables
from analysis.tracking_uri import DEFAULT_TRACKING_URI, default_tracking_uri

SCORE = "test_iwae"
"""The score that methods are compared by; tables of the validation ELBO are shown beside its tables."""

_WIDTH = 160
_RENDERERS = {"md": render.to_markdown, "csv": render.to_csv, "tex": render.to_latex}
_LIST_RENDERERS = {"md": listing.to_markdown, "csv": listing.to_csv, "tex": listing.to_latex}
_NOT_SETTINGS = set(COLUMNS) - set(SETTINGS)


@dataclass(frozen=True)
class Report:
    """A written report.

    Attributes:
        index: the HTML page; files: all files, the page included.
        answer: the findings, one sentence or paragraph each; the first is the page's opening.
        tables: scores and times; against_paper: our numbers next to the paper's.
        ranks: average ranks, one list for each decoder with at least two complete rows and columns.
        gains: each row's gain over the VAE and over its control; trainings: how each row was trained. None without
            trainings.
        claims: the paper's claims and those about controls, with their status.
        figures: as drawn.
    """

    index: Path
    files: list[Path]
    answer: list[str]
    tables: list[Table]
    against_paper: list[Table]
    ranks: list[Listing]
    gains: Listing | None
    trainings: Listing | None
    claims: list[Claim]
    figures: list[Figure]


def build_report(
    experiment: str,
    out: str | Path,
    tracking_uri: str = DEFAULT_TRACKING_URI,
    where: Mapping[str, str] | None = None,
    expected_seeds: int | None = None,
    draw: bool = True,
    model_minutes: float | None = None,
) -> Report:
    """Read the runs of an MLflow experiment and write their report with `report_of`.

    Args:
        experiment: name of the MLflow experiment.
        out: as for `report_of`.
        tracking_uri: the MLflow store.
        where: keep only runs with these values; see `analysis.collect.collect`.
        expected_seeds: as for `report_of`.
        draw: as for `report_of`.
        model_minutes: also draw the figures that need the trained models; after so many minutes no further model is
            measured. None: no such figures.

    Raises:
        CollectError: the runs cannot be read, or none has finished.
        OSError: `out` cannot be written.
    """
    runs = collect(tracking_uri, experiment, where)
    if runs.empty:
        chosen = " that matches" if where else ""
        raise CollectError(f"experiment {experiment!r} has no finished run{chosen} in {tracking_uri}")
    return report_of(
        runs,
        out,
        experiment,
        failed=failures(tracking_uri, experiment, where),
        read_curves=lambda chosen: curves(tracking_uri, experiment, runs=chosen),
        draw_models=None
        if model_minutes is None
        else lambda trained: figures_of_models(trained, tracking_uri, Path(out), model_minutes),
        where=where,
        expected_seeds=expected_seeds,
        draw=draw,
    )


def report_of_file(
    path: str | Path,
    out: str | Path,
    title: str | None = None,
    where: Mapping[str, str] | None = None,
    expected_seeds: int | None = None,
    draw: bool = True,
) -> Report:
    """Read a file of runs written by `python -m analysis.collect`, and write their report with `report_of`.

    Training curves are read from the file beside it, if that exists. The same files give the same report, byte for
    byte.

    Args:
        path: the file of runs.
        out: as for `report_of`.
        title: by default the file's name, or its folder's if the file is `runs.csv`.
        where: keep only runs with these values; see `analysis.collect.collect`.
        expected_seeds: as for `report_of`.
        draw: as for `report_of`.

    Raises:
        CollectError: the file is missing or invalid, or no run matches.
        OSError: `out` cannot be written.
    """
    path = Path(path)
    runs = read_runs(path, where)
    if runs.empty:
        raise CollectError(f"{path} has no run" + (" that matches" if where else ""))
    points = read_points(curves_path(path))
    name = path.stem if path.stem != "runs" else path.resolve().parent.name
    return report_of(
        runs,
        out,
        title or name,
        read_curves=(lambda chosen: curve_frame(points, chosen)) if len(points) else None,
        where=where,
        expected_seeds=expected_seeds,
        draw=draw,
    )


def report_of(
    runs: pd.DataFrame,
    out: str | Path,
    title: str,
    *,
    failed: pd.DataFrame | None = None,
    read_curves: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    draw_models: Callable[[pd.DataFrame], list[Figure]] | None = None,
    where: Mapping[str, str] | None = None,
    expected_seeds: int | None = None,
    draw: bool = True,
) -> Report:
    """Write the report of some runs.

    The page is `out/index.html`; each table and list is `out/tables/NAME.{md,csv,tex,txt}`; the findings are
    `out/tables/answer.txt`; each figure and the numbers that it shows are `out/figures/NAME.{png,pdf,csv}`. Runs of a
    timing grid give Tables 4 and 6, trainings all other tables.

    Args:
        runs: one row for each run, at least one, as `analysis.collect.collect` returns them.
        out: folder to write to; created if missing, files of the same name are overwritten.
        title: of the page, usually the experiment's name.
        failed: failed runs, as `analysis.collect.failures` returns them; by default none.
        read_curves: returns the training curves of given runs, as `analysis.collect.curves` does; by default no
            training curves are drawn.
        draw_models: returns the figures that need the trained models, given the trainings.
        where: the values that the runs were selected by, to be shown on the page.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell has.
        draw: whether to draw the figures that need no models; they take most of the time.

    Raises:
        OSError: `out` cannot be written.
    """
    out = Path(out)
    (out / "tables").mkdir(parents=True, exist_ok=True)  # fails before minutes of work, not after them
    failed = frame_of([], FAILURE_COLUMNS) if failed is None else failed
    timings, scored = runs[is_timing(runs)], runs[~is_timing(runs)]
    answer, tables, against, ranks, claims = [], [], [], [], []
    gained, trained = None, None
    drawn: list[Figure] = []
    if len(scored):
        expected = expected_seeds or fullest(scored)
        answer += findings(scored, SCORE, expected)
        tables += _score_tables(scored, expected)
        against += paper_tables(scored, SCORE, expected)
        for decoder, of_decoder in scored.groupby("decoder"):
            ranks.append(rank_listing(compare_ranks(of_decoder, SCORE, expected), str(decoder)))
        gained, trained = gain_listing(scored, SCORE), training_listing(scored)
        claims += score_claims(scored, SCORE, expected)
        if draw:
            recorded = read_curves(to_read(scored)) if read_curves is not None else None
            drawn += figures(scored, recorded, timings, SCORE, expected)
        if draw_models is not None:
            drawn += draw_models(scored)
            answer += [figure.finding for figure in drawn if figure.finding]
    if len(timings):
        answer += time_findings(timings)
        tables += time_tables(timings, expected_seeds)
        against += paper_ratio_tables(timings)
        claims += time_claims(timings)
    found = [item for item in ranks if item is not None]
    claimed = [item for item in (claim_summary(claims), claim_listing(claims)) if item is not None]
    written = {f"{t.name}.{suffix}": write(t) for t in [*tables, *against] for suffix, write in _RENDERERS.items()}
    for item in filter(None, [*found, gained, trained, *claimed]):
        written |= {f"{item.name}.{suffix}": write(item) for suffix, write in _LIST_RENDERERS.items()}
    if drawn:
        (out / "figures").mkdir(exist_ok=True)
    not_on_page = {"answer.txt": "\n".join(answer) + "\n"}
    not_on_page |= {f"{t.name}.txt": render.to_text(t) for t in [*tables, *against]}
    not_on_page |= {f"{i.name}.txt": listing.to_text(i) for i in filter(None, [*found, gained, trained, *claimed])}
    for name, text in (written | not_on_page).items():
        (out / "tables" / name).write_text(text, encoding="utf-8", newline="")
    pictures = [path for figure in drawn for path in figure.save(out / "figures")]
    pdfs = {path.name: path.read_bytes() for path in pictures if path.suffix == ".pdf"}
    numbers = {path.name: path.read_text(encoding="utf-8") for path in pictures if path.suffix == ".csv"}
    page = render_page(
        experiment=title,
        answer=answer,
        tables=tables,
        against_paper=against,
        ranks=found,
        gains=gained,
        trainings=trained,
        claims=claims,
        claim_lists=claimed,
        figures=[(figure, (out / "figures" / f"{figure.name}.png").read_bytes()) for figure in drawn],
        files={**written, **pdfs, **numbers},
        how_it_was_run={"where": dict(where or {})} | _how_it_was_run(runs, failed, expected_seeds),
    )
    index = out / "index.html"
    index.write_text(page, encoding="utf-8")
    files = [index, *(out / "tables" / name for name in written | not_on_page), *pictures]
    return Report(index, files, answer, tables, against, found, gained, trained, claims, drawn)


def figures_of_models(runs: pd.DataFrame, tracking_uri: str, out: Path, minutes: float) -> list[Figure]:
    """The figures that need the trained models. What is computed for them is cached in `out/models`.

    Prints to standard error the seconds that each run took, and which cells are left out, with the reason.
    """
    from analysis.figures.of_models import figures_of_runs  # imports torch, which no other part of a report needs
    from analysis.measures import Budget

    found, notes = figures_of_runs(
        tracking_uri,
        runs,
        out / "models",
        Budget(minutes=minutes),
        lambda run, seconds: print(f"{run.column.dataset_label} d{run.column.dim} {run.row.label}: {seconds:.0f} s",
                                   file=sys.stderr),
    )  # fmt: skip
    for note in notes:
        print(f"left out of the figures of models: {note}", file=sys.stderr)
    return found


def _score_tables(runs: pd.DataFrame, expected: int) -> list[Table]:
    """All tables of scores, grouped by data set and decoder; at the end the table that compares the two decoders."""
    others = difference_tables(runs, SCORE, expected)
    others += control_tables(runs, SCORE, expected)
    others += score_tables(runs, "val_elbo", expected)
    tables = [
        table
        for main in score_tables(runs, SCORE, expected)
        for table in [main, *others]
        if _subject(table) == _subject(main) and (table is main or _has_scores(table))
    ]
    both = decoder_table(runs, SCORE, expected)
    return tables if both is None else [*tables, both]


def _subject(table: Table) -> tuple[str, str]:
    return table.columns[0].dataset, table.columns[0].decoder


def _has_scores(table: Table) -> bool:
    return any(entry.n for entry in table.entries.values())


def _how_it_was_run(runs: pd.DataFrame, failed: pd.DataFrame, expected_seeds: int | None) -> dict[str, object]:
    trained = runs[~is_timing(runs)]
    return {
        "n_runs": len(runs),
        "commands": list(runs.sort_values("start_time")["command"].dropna().unique()),
        "first": _day(runs["start_time"].min()),
        "last": _day(runs["start_time"].max()),
        "hours": None if trained.empty else trained["train_s"].sum() / 3600,
        "untimed": int(trained["train_s"].isna().sum()),
        "made_with": {
            title: runs[name].astype(object).fillna("not recorded").value_counts().to_dict()
            for name, title in {"git_commit": "Commit", "device": "Device", "torch_version": "PyTorch"}.items()
        },
        "settings": {
            name: sorted({str(value) for value in runs[name].dropna()}, key=_number_first)
            for name in runs.columns
            if name not in _NOT_SETTINGS
        },
        "failed": sort_rows(failed).to_dict("records"),
        "missing": _missing(runs, failed, expected_seeds),
    }


def _day(time: pd.Timestamp) -> str:
    return "at an unknown time" if pd.isna(time) else f"{time:%Y-%m-%d}"


def _missing(runs: pd.DataFrame, failed: pd.DataFrame, expected_seeds: int | None) -> list[dict[str, object]]:
    """The cells with fewer scores than expected, including those whose runs all failed."""
    score = pd.Series(runs[SCORE].where(~is_timing(runs), runs["inference_ms"]), name="score")
    both = pd.concat([runs.assign(score=score), failed.assign(score=float("nan"))], ignore_index=True)
    both = both.drop_duplicates([*CELL, "seed"])  # a finished run counts, even if it failed with another setting
    cells = sort_rows(summarise(both, "score"))
    expected = expected_seeds or fullest(runs)
    seeds = set(both["seed"])
    return [
        {"cell": cell, "expected": expected, "seeds": sorted(seeds - set(cell["seeds"]))}
        for _, cell in cells[cells["n"] < expected].iterrows()
    ]


def _number_first(text: str) -> tuple[int, float, str]:
    """A sort key: numbers by size, then words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _seeds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seeds, 1 or more")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes, 0 or more")
    return minutes


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write an experiment's report: an HTML page, and its tables and figures as files.",
    )
    add = parser.add_argument
    add("--experiment", metavar="E",
        help="MLflow experiment: the grid's, or the sweep's --experiment; with --runs, the page's title")  # fmt: skip
    add("--runs", type=Path, metavar="RUNS.csv",
        help="read the runs from this file, which analysis.collect wrote, instead of from MLflow")  # fmt: skip
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write the report to")
    add("--tracking-uri", metavar="URI",
        help=f"the MLflow store (default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI})")  # fmt: skip
    add("--where", type=assignment, action="append", default=[], metavar="FIELD=VALUE",
        help="only runs with this param; can be given several times")  # fmt: skip
    add("--expected-seeds", type=_seeds, metavar="N",
        help="runs of a complete cell (default: as many as the fullest cell has)")  # fmt: skip
    add("--no-figures", action="store_true", help="skip the figures that need no models; much faster")
    add(
        "--models", type=_minutes, nargs="?", const=10.0, metavar="MINUTES",
        help="also draw the figures that need the trained models: gaps, IWAE by K, posteriors at two latents, "
        "reconstructions and samples. Measures one run of each cell, on one core in about half a minute for MNIST and "
        "five minutes for CelebA. No further run is started after MINUTES (default: 10); the next report continues "
        "with the rest",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 when the report is written, 2 with a line on stderr when it cannot be."""
    command = parser()
    options = command.parse_args(arguments)
    if options.runs is None and options.experiment is None:
        command.error("nothing to report on: give --experiment E or --runs RUNS.csv")
    if options.runs is not None and options.models is not None:
        command.error("--models with --runs: the models are in MLflow; give --experiment E instead of --runs")
    try:
        report = _build(options)
    except (CollectError, OSError) as error:
        print(f"analysis.report: {error}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, markup=False)
    for table in [*report.tables, *report.against_paper]:
        console.print(render.to_rich(table))
    for item in [*report.ranks, report.trainings, report.gains, claim_summary(report.claims)]:
        if item is not None:
            console.print(listing.to_rich(item))
    console.print("\n".join(report.answer), soft_wrap=True)
    console.print(f"\nreport: {report.index}", soft_wrap=True)
    return 0


def _build(options: argparse.Namespace) -> Report:
    where, draw = dict(options.where), not options.no_figures
    if options.runs is not None:
        return report_of_file(options.runs, options.out, options.experiment, where, options.expected_seeds, draw)
    uri = options.tracking_uri or default_tracking_uri()
    return build_report(options.experiment, options.out, uri, where, options.expected_seeds, draw, options.models)


if __name__ == "__main__":
    sys.exit(main())
