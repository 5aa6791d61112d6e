"""`python -m analysis.report`: the tables of an experiment as a page to read and as files to paste."""

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
from analysis.page import render_page
from analysis.paper import paper_ratio_tables, paper_tables
from analysis.ranks import compare_ranks
from analysis.runs import COLUMNS, SETTINGS, frame_of
from analysis.stats import CELL, summarise
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

SCORE = "test_iwae"
"""What methods are judged by; validation ELBOs are shown beside it."""

_WIDTH = 160
_RENDERERS = {"md": render.to_markdown, "csv": render.to_csv, "tex": render.to_latex}
_LIST_RENDERERS = {"md": listing.to_markdown, "csv": listing.to_csv, "tex": listing.to_latex}
_NOT_SETTINGS = set(COLUMNS) - set(SETTINGS)


@dataclass(frozen=True)
class Report:
    """What was written: the page, all files with it, the answer in sentences, and what the page holds.

    Attributes:
        tables: of scores and times; against_paper: ours next to the paper's.
        ranks: average ranks over all columns, one list for each decoder that has two complete columns.
        gains: what each row's gain over the VAE is worth; trainings: how each row was trained. None without scores.
        claims: the paper's, and whether ours is above its control.
        figures: what is drawn.
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
    tracking_uri: str = "sqlite:///mlflow.db",
    where: Mapping[str, str] | None = None,
    expected_seeds: int | None = None,
    draw: bool = True,
    model_minutes: float | None = None,
) -> Report:
    """Read the runs of an MLflow experiment and write their report, as `report_of` does.

    Args:
        experiment: name of the MLflow experiment.
        out: as for `report_of`.
        tracking_uri: the MLflow store.
        where: keeps the runs that have these values; see `analysis.collect.collect`.
        expected_seeds: as for `report_of`.
        draw: as for `report_of`.
        model_minutes: also draw what needs the trained models, and compute for so many minutes at most.

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
    """Read the runs of a file that `python -m analysis.collect` wrote, and write their report, as `report_of` does.

    The curves are those of the file beside it, where there is one. Of the same files the report is the same, byte for
    byte.

    Args:
        path: the file of runs.
        out: as for `report_of`.
        title: by default the name of the file, or of its folder where that is just `runs.csv`.
        where: keeps the runs that have these values; see `analysis.collect.collect`.
        expected_seeds: as for `report_of`.
        draw: as for `report_of`.

    Raises:
        CollectError: there is no such file, it is not what it should be, or it has no run that matches.
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
    """Write `out/index.html`, each table and list as `out/tables/NAME.{md,csv,tex,txt}`, and the figures.

    These are `out/figures/NAME.{png,pdf,csv}`: the drawing, and the numbers that it shows. The sentences of the answer
    are `out/tables/answer.txt`. Timings get Tables 4 and 6, trainings all others.

    Args:
        runs: one row for each run, at least one, as `analysis.collect.collect` gives them.
        out: folder to write to; made if it is missing, files of the same name are replaced.
        title: of the page: the experiment's name.
        failed: as `analysis.collect.failures` gives them; by default none has failed.
        read_curves: gives the training curves of some of the runs, as `analysis.collect.curves` does; by default there
            are none.
        draw_models: gives the figures that need the models of the trainings.
        where: what the runs were chosen by, for the page to say.
        expected_seeds: runs of a complete cell; by default as many as the fullest cell has.
        draw: whether there are figures; they take most of the time.

    Raises:
        OSError: `out` cannot be written.
    """
    out = Path(out)
    (out / "tables").mkdir(parents=True, exist_ok=True)  # before what takes minutes: it may be forbidden
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
    alone = {"answer.txt": "\n".join(answer) + "\n"}
    alone |= {f"{t.name}.txt": render.to_text(t) for t in [*tables, *against]}
    alone |= {f"{i.name}.txt": listing.to_text(i) for i in filter(None, [*found, gained, trained, *claimed])}
    for name, text in (written | alone).items():
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
    files = [index, *(out / "tables" / name for name in written | alone), *pictures]
    return Report(index, files, answer, tables, against, found, gained, trained, claims, drawn)


def figures_of_models(runs: pd.DataFrame, tracking_uri: str, out: Path, minutes: float) -> list[Figure]:
    """The figures that need the models themselves; what was computed for them is kept in `out/models`.

    What cannot be drawn, and how far the computation is, goes to standard error.
    """
    from analysis.figures.of_models import figures_of_runs  # torch, which no other part of a report needs
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
        print(f"not in the models' figures: {note}", file=sys.stderr)
    return found


def _score_tables(runs: pd.DataFrame, expected: int) -> list[Table]:
    """Those of one data set and decoder together; what both decoders were run with, at the end."""
    beside = difference_tables(runs, SCORE, expected)
    beside += control_tables(runs, SCORE, expected)
    beside += score_tables(runs, "val_elbo", expected)
    tables = [
        table
        for main in score_tables(runs, SCORE, expected)
        for table in [main, *beside]
        if _subject(table) == _subject(main) and (table is main or _any(table))
    ]
    both = decoder_table(runs, SCORE, expected)
    return tables if both is None else [*tables, both]


def _subject(table: Table) -> tuple[str, str]:
    return table.columns[0].dataset, table.columns[0].decoder


def _any(table: Table) -> bool:
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
            name: sorted({str(value) for value in runs[name].dropna()}, key=_natural)
            for name in runs.columns
            if name not in _NOT_SETTINGS
        },
        "failed": sort_rows(failed).to_dict("records"),
        "missing": _missing(runs, failed, expected_seeds),
    }


def _day(time: pd.Timestamp) -> str:
    return "at a time that was not recorded" if pd.isna(time) else f"{time:%Y-%m-%d}"


def _missing(runs: pd.DataFrame, failed: pd.DataFrame, expected_seeds: int | None) -> list[dict[str, object]]:
    """The cells that have fewer scores than they should, also those of which every run failed."""
    score = pd.Series(runs[SCORE].where(~is_timing(runs), runs["inference_ms"]), name="score")
    both = pd.concat([runs.assign(score=score), failed.assign(score=float("nan"))], ignore_index=True)
    both = both.drop_duplicates([*CELL, "seed"])  # a run may have failed with one setting and finished with another
    cells = sort_rows(summarise(both, "score"))
    expected = expected_seeds or fullest(runs)
    seeds = set(both["seed"])
    return [
        {"cell": cell, "expected": expected, "seeds": sorted(seeds - set(cell["seeds"]))}
        for _, cell in cells[cells["n"] < expected].iterrows()
    ]


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _seeds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seeds, 1 or more")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 <= minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes")
    return minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when the report is written, 2 with a line on stderr when it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("--experiment", metavar="E", help="name of the MLflow experiment (the grid)")
    parser.add_argument("--runs", type=Path, metavar="RUNS.csv", help="instead: runs that analysis.collect wrote")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write the report to")
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db", metavar="URI", help="default: %(default)s")
    parser.add_argument(
        "--where", type=assignment, action="append", default=[], metavar="FIELD=VALUE",
        help="only the runs with this param; can be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--expected-seeds", type=_seeds, metavar="N", help="runs of a complete cell (default: the most)"
    )
    parser.add_argument("--no-figures", action="store_true", help="tables alone, which is quicker")
    parser.add_argument(
        "--models", type=_minutes, nargs="?", const=10.0, metavar="MINUTES",
        help="also draw what needs the trained models: gaps, IWAE by K, posteriors at two latents, reconstructions and "
        "samples. Computes for each cell's shown run, on one core about half a minute for MNIST, ten times that for "
        "CelebA; begins no further run after MINUTES (10), and goes on there the next time",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if options.runs is None and options.experiment is None:
        parser.error("say of what: --experiment E, or --runs RUNS.csv")
    if options.runs is not None and options.models is not None:
        parser.error("--models needs the models, which are in MLflow: say --experiment E without --runs")
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
    return build_report(
        options.experiment, options.out, options.tracking_uri, where, options.expected_seeds, draw, options.models
    )


if __name__ == "__main__":
    sys.exit(main())
