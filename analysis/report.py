"""`python -m analysis.report`: an experiment's report, as an HTML page and as files of its tables and figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis import freshness, listing, render, side_by_side
from analysis.cautions import cautions
from analysis.claims import Claim, score_claims, time_claims
from analysis.collect import FAILURE_COLUMNS, CollectError, assignment, check_experiment, collect, curves, failures
from analysis.colours import PLAIN, SCHEMES
from analysis.curve_frame import curve_frame
from analysis.evidence import curves_path, read_points, read_runs
from analysis.figure import Figure
from analysis.figures import figures
from analysis.figures.curves import to_read
from analysis.findings import findings
from analysis.how_it_was_run import condition_lists, how_it_was_run
from analysis.listing import Listing, claim_listing, claim_summary, gain_listing, rank_listing, training_listing
from analysis.methods_text import Paragraph
from analysis.page import render_page
from analysis.paper import paper_ratio_tables, paper_tables
from analysis.progress import Steps, shown_steps
from analysis.ranks import compare_ranks
from analysis.runs import frame_of
from analysis.side_by_side import Experiment, SideBySide
from analysis.tables import (
    Table,
    control_tables,
    decoder_table,
    difference_tables,
    fullest,
    score_tables,
)
from analysis.time_tables import is_timing, time_findings, time_tables
from analysis.tracking_uri import DEFAULT_TRACKING_URI, default_tracking_uri

SCORE = "test_iwae"
"""The score that methods are compared by; tables of the validation ELBO are shown beside its tables."""

_WIDTH = 160
_RENDERERS = {"md": render.to_markdown, "csv": render.to_csv}
_LIST_RENDERERS = {"md": listing.to_markdown, "csv": listing.to_csv, "tex": listing.to_latex}


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
        warnings: about settings that are likely to mislead (`analysis.cautions`).
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
    warnings: list[str]


def build_report(
    experiment: str,
    out: str | Path,
    tracking_uri: str = DEFAULT_TRACKING_URI,
    where: Mapping[str, str] | None = None,
    expected_seeds: int | None = None,
    draw: bool = True,
    model_minutes: float | None = None,
    steps: Steps | None = None,
    colours: str = PLAIN,
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
        steps: is told what the report is doing.
        colours: as for `report_of`.

    Raises:
        CollectError: the runs cannot be read, or none has finished.
        OSError: `out` cannot be written.
    """
    steps = steps or Steps()
    (steps.doing if model_minutes is None else steps.slow)(f"reading the runs of {experiment}")
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
        else lambda trained: figures_of_models(trained, tracking_uri, Path(out), model_minutes, steps),
        where=where,
        expected_seeds=expected_seeds,
        draw=draw,
        steps=steps,
        colours=colours,
    )


def report_of_file(
    path: str | Path,
    out: str | Path,
    title: str | None = None,
    where: Mapping[str, str] | None = None,
    expected_seeds: int | None = None,
    draw: bool = True,
    steps: Steps | None = None,
    colours: str = PLAIN,
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
        steps: is told what the report is doing.
        colours: as for `report_of`.

    Raises:
        CollectError: the file is missing or invalid, or no run matches.
        OSError: `out` cannot be written.
    """
    path, steps = Path(path), steps or Steps()
    steps.doing(f"reading {path}")
    runs = read_runs(path, where)
    if runs.empty:
        raise CollectError(f"{path} has no run" + (" that matches" if where else ""))
    points = read_points(curves_path(path))
    return report_of(
        runs,
        out,
        title or side_by_side.names_of([path])[0],
        read_curves=(lambda chosen: curve_frame(points, chosen)) if len(points) else None,
        where=where,
        expected_seeds=expected_seeds,
        draw=draw,
        steps=steps,
        colours=colours,
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
    steps: Steps | None = None,
    colours: str = PLAIN,
) -> Report:
    """Write the report of some runs.

    The page is `out/index.html`; each table and list is `out/tables/NAME.{md,csv,tex,txt}`; the findings are
    `out/tables/answer.txt`, the warnings `warnings.txt` beside it, if there are any; a paragraph for a paper is
    `out/tables/methods.{txt,tex}`, with its references in `references.bib`; each figure and the numbers that it shows
    are `out/figures/NAME.{png,pdf,csv}`. Runs of a timing grid give Tables 4 and 6, trainings all other tables.

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
        steps: is told what the report is doing.
        colours: scheme of the tables in LaTeX, and on the page until its reader chooses (`analysis.colours.SCHEMES`).

    Raises:
        OSError: `out` cannot be written.
    """
    out, steps = Path(out), steps or Steps()
    steps.doing(f"comparing {len(runs):,} runs")
    (out / "tables").mkdir(parents=True, exist_ok=True)  # fails before minutes of work, not after them
    freshness.begin(out)
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
            steps.doing("reading training curves")
            recorded = read_curves(to_read(scored)) if read_curves is not None else None
            steps.doing("drawing figures")
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
    conditions = condition_lists(runs)
    lists = [item for item in (*found, gained, trained, *claimed, *conditions) if item is not None]
    about = how_it_was_run(runs, failed, SCORE, expected_seeds)
    warnings = cautions(scored)
    renderers = _RENDERERS | {"tex": partial(render.to_latex, colours=colours)}
    written = {f"{t.name}.{suffix}": write(t) for t in [*tables, *against] for suffix, write in renderers.items()}
    for item in lists:
        written |= {f"{item.name}.{suffix}": write(item) for suffix, write in _LIST_RENDERERS.items()}
    paragraph = about["paragraph"]
    if isinstance(paragraph, Paragraph):
        written |= {"methods.txt": paragraph.text, "methods.tex": paragraph.latex, "references.bib": paragraph.bibtex}
    if drawn:
        (out / "figures").mkdir(exist_ok=True)
    not_on_page = {"answer.txt": "\n".join(answer) + "\n"}
    not_on_page |= {"warnings.txt": "\n".join(warnings) + "\n"} if warnings else {}
    not_on_page |= {f"{t.name}.txt": render.to_text(t) for t in [*tables, *against]}
    not_on_page |= {f"{item.name}.txt": listing.to_text(item) for item in lists}
    for name, text in (written | not_on_page).items():
        (out / "tables" / name).write_text(text, encoding="utf-8", newline="")
    pictures = []
    for i, figure in enumerate(drawn):
        steps.doing("drawing figures", i, len(drawn))
        pictures += figure.save(out / "figures")
    steps.doing("writing the page")
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
        how_it_was_run={"where": dict(where or {}), "warnings": warnings, "conditions": conditions} | about,
        colours=colours,
    )
    index = out / "index.html"
    index.write_text(page, encoding="utf-8")
    options: dict[str, object] = {"where": where, "expected_seeds": expected_seeds, "no_figures": not draw}
    options |= {"colours": colours} if colours != PLAIN else {}
    files = [index, *(out / "tables" / name for name in written | not_on_page), *pictures]
    freshness.leave(out, freshness.fingerprint(runs, failed, title, **options), files)
    return Report(index, files, answer, tables, against, found, gained, trained, claims, drawn, warnings)


def figures_of_models(runs: pd.DataFrame, tracking_uri: str, out: Path, minutes: float, steps: Steps) -> list[Figure]:
    """The figures that need the trained models. What is computed for them is cached in `out/models`.

    Says what is measured, and which cells are left out, with the reason. After Ctrl-C the figures are of what has been
    measured.
    """
    steps.slow("loading torch, to measure models")
    from analysis.figures.of_models import figures_of_runs  # imports torch, which no other part of a report needs
    from analysis.measures import Budget

    found, notes = figures_of_runs(tracking_uri, runs, out / "models", Budget(minutes=minutes), steps)
    for note in notes:
        steps.say(f"left out of the figures of models: {note}")
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
        description="Write an experiment's report: an HTML page, and its tables and figures as files. Of several "
        "experiments: their cells side by side.",
    )
    add = parser.add_argument
    add("--experiment", action="append", default=[], metavar="E",
        help="MLflow experiment: the grid's, or the sweep's --experiment; with --runs, the page's title; given several "
        "times, each experiment is compared with the first, cell by cell")  # fmt: skip
    add("--runs", type=Path, action="append", default=[], metavar="RUNS.csv",
        help="read the runs from this file, which analysis.collect wrote, instead of from MLflow; given several times, "
        "each file is compared with the first, as experiments are")  # fmt: skip
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write the report to")
    add("--tracking-uri", metavar="URI",
        help=f"the MLflow store (default: $MLFLOW_TRACKING_URI or {DEFAULT_TRACKING_URI})")  # fmt: skip
    add("--where", type=assignment, action="append", default=[], metavar="FIELD=VALUE",
        help="only runs with this param; can be given several times")  # fmt: skip
    add("--expected-seeds", type=_seeds, metavar="N",
        help="runs of a complete cell (default: as many as the fullest cell has)")  # fmt: skip
    add("--colours", choices=SCHEMES, default=PLAIN,
        help="of the tables in the terminal, in LaTeX and on the page, which has a switch: plain emphasises the best "
        "and what is indistinguishable from it; paper are the paper's, the redder the closer to the best (default: "
        "plain)")  # fmt: skip
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
    """The command line. Returns 0 when the report is written, 2 with a line on stderr if not, 130 at Ctrl-C."""
    command = parser()
    options = command.parse_args(arguments)
    if fault := _fault(options):
        command.error(fault)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, markup=False)
    try:
        _check_is_no_file(options.out)
        with shown_steps() as steps:
            report = _side_by_side(options, steps) if _several(options) else _build(options, steps)
    except (CollectError, OSError) as error:
        print(f"analysis.report: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("analysis.report: interrupted; the same command starts again, and keeps measured models", file=sys.stderr)
        return 130
    if isinstance(report, Report):
        print_report(report, console, options.colours)
    else:
        side_by_side.print_to(console, *report)
    return 0


def _several(options: argparse.Namespace) -> bool:
    return len(options.runs) > 1 or (len(options.experiment) > 1 and not options.runs)


def _fault(options: argparse.Namespace) -> str:
    """Why these options do not go together, and what would be valid; empty if they do."""
    experiments, files = options.experiment, options.runs
    if not experiments and not files:
        return "nothing to report on: give --experiment E or --runs RUNS.csv"
    if files and options.models is not None:
        return "--models with --runs: the models are in MLflow; give --experiment E instead of --runs"
    if files and options.tracking_uri is not None:
        return (
            f"--tracking-uri {options.tracking_uri} with --runs: a file's runs are not read from MLflow; leave "
            "--tracking-uri out, or give --experiment E instead of --runs"
        )
    for option, given in (("--experiment", experiments), ("--runs", [path.resolve() for path in files])):
        if twice := [value for value in given if given.count(value) > 1]:
            return f"{option} {twice[0]} is given {given.count(twice[0])} times; a comparison needs different ones"
    if files and experiments and len(experiments) != len(files):
        return (
            f"--experiment {experiments[-1]} with --runs: it is the title of a file's runs; give one for each of the "
            f"{len(files)} files, or none"
        )
    if _several(options):
        unused = {"--models": options.models is not None, "--expected-seeds": options.expected_seeds is not None,
                  "--no-figures": options.no_figures, "--colours": options.colours != PLAIN}  # fmt: skip
        for option, is_given in unused.items():
            if is_given:
                return f"{option} is of one experiment's report: give one experiment, or leave {option} out"
    return ""


def _check_is_no_file(out: Path) -> None:
    """Raise NotADirectoryError if the folder for the report, or one that would contain it, is a file."""
    for path in (out, *out.parents):
        if path.exists():
            if not path.is_dir():
                raise NotADirectoryError(f"--out {out}: {path} is a file; give a folder, which is made if missing")
            return


def _side_by_side(options: argparse.Namespace, steps: Steps) -> tuple[SideBySide, Path]:
    where = dict(options.where)
    if options.runs:
        names = options.experiment or side_by_side.names_of(options.runs)
        read = [(name, partial(read_runs, path, where)) for name, path in zip(names, options.runs, strict=True)]
    else:
        uri = options.tracking_uri or default_tracking_uri()
        for name in options.experiment:  # a mistyped name is found before minutes of reading
            check_experiment(uri, name)
        read = [(name, partial(collect, uri, name, where)) for name in options.experiment]
    found = []
    for i, (name, runs_of) in enumerate(read):
        steps.doing(f"reading the runs of {name}", i, len(read))
        try:
            runs = runs_of()
        except CollectError as error:
            raise error if name in str(error) else CollectError(f"{name}: {error}") from error
        if runs.empty:
            raise CollectError(f"{name} has no finished run" + (" that matches" if where else ""))
        found.append(Experiment(name, runs))
    steps.doing("comparing them")
    compared = side_by_side.compare(found, SCORE)
    return compared, side_by_side.write(compared, options.out)


def print_report(report: Report, console: Console, colours: str = PLAIN) -> None:
    """Print a report's tables, lists, warnings and findings, and the path of its page in the last line."""
    for table in [*report.tables, *report.against_paper]:
        console.print(render.to_rich(table, colours))
    for item in [*report.ranks, report.trainings, report.gains, claim_summary(report.claims)]:
        if item is not None:
            console.print(listing.to_rich(item))
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    console.print("\n".join(report.answer), soft_wrap=True)
    console.print(f"\nreport: {report.index}", soft_wrap=True)


def _build(options: argparse.Namespace, steps: Steps) -> Report:
    where, draw = dict(options.where), not options.no_figures
    expected = options.expected_seeds
    if options.runs:
        title = options.experiment[0] if options.experiment else None
        return report_of_file(options.runs[0], options.out, title, where, expected, draw, steps, options.colours)
    uri = options.tracking_uri or default_tracking_uri()
    named, minutes = options.experiment[0], options.models
    return build_report(named, options.out, uri, where, expected, draw, minutes, steps, options.colours)


if __name__ == "__main__":
    sys.exit(main())
