"""The descriptions of an experiment, a cell and a failed run on MLflow's page. A user's own words are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mlflow.entities import Run

from analysis.names import BASELINE, CONTROL, RUN_KEY, TRACEBACK
from tune.record.views import CELLS, FAILED, RUNS, TIMINGS, View, address, address_of_run

NOTE = "mlflow.note.content"
"""MLflow's tag of a description, in Markdown."""

WRITTEN = "mlflow.note.written"
"""Tag with what this program wrote last into the description. MLflow's page does not show it."""

LISTED = 12
"""How many failed runs a cell's description names."""

EARLIER = (
    "A run for each cell, with mean and sd over its seeds, rank and p within its column; below it, a run for each "
    "seed. In the search box:\n\n"
    "- the cells alone: `tags.cell_key != ''`, sorted by `cell/mean`\n"
    "- a table's column: `tags.cell_key != '' and params.dataset = 'mnist' and params.dim = '10'`\n"
    "- a cell with its runs: `tags.cell = 'MNIST d10 RME(5)'`; of a variant (the same method with other settings): "
    "`tags.cell = 'MNIST d10 RME(2), kl 20'`\n"
    "- all variants of a name: `params.variant = 'kl 20'`; runs without this param are of no variant\n"
    "- failed runs: `attributes.status = 'FAILED'`\n"
)
"""What earlier versions wrote into every experiment's description."""


def updated(tags: Mapping[str, str], text: str) -> dict[str, str]:
    """The tags to set so that the description has this text in place of what was written last.

    None of them if nothing changes, or if a user has changed or deleted the program's part of the description.
    """
    note, written = tags.get(NOTE), tags.get(WRITTEN)
    if written is None:
        written = EARLIER if note and EARLIER in note else ""
        if note and not written:
            return {}
    if written == text or written not in (note or ""):
        return {}
    return {NOTE: (note or "").replace(written, text, 1) if written else text, WRITTEN: text}


# ---------------------------------------------------------------------- the texts
def of_experiment(experiment_id: str, cells: Sequence[Run], timings: bool) -> str:
    """How to find the runs of an experiment, with examples of its own cells.

    Args:
        experiment_id: MLflow's.
        cells: the summaries of its cells.
        timings: whether they are timings, which have no scores.
    """
    views = _listed(experiment_id, [TIMINGS, FAILED] if timings else [CELLS, RUNS, FAILED])
    what = "" if timings else ", with mean and sd over its seeds, rank and p within its column"
    lines = [
        f"{views} A run for each cell{what}; below it, a run for each seed.",
        "",
        "In the search box:",
        "",
        "- the cells alone: `tags.cell_key != ''`" + ("" if timings else ", sorted by `cell/mean`"),
    ]
    if cells:
        cell = _example([each for each in cells if "variant" not in each.data.params] or cells)
        params = cell.data.params
        conditions = [f"params.{name} = {_quoted(params[name])}" for name in ("dataset", "dim")]
        if len({each.data.params["decoder"] for each in cells}) > 1:
            conditions.append(f"params.decoder = {_quoted(params['decoder'])}")
        lines += [
            f"- a table's column: `tags.cell_key != '' and {' and '.join(conditions)}`",
            f"- a cell with its runs: `tags.cell = {_quoted(cell.data.tags['cell'])}`",
        ]
    variants = [each for each in cells if "variant" in each.data.params]
    if variants:
        cell = _example(variants)
        lines += [
            f"- of a variant, the same method with other settings: `tags.cell = {_quoted(cell.data.tags['cell'])}`",
            f"- all variants of a name: `params.variant = {_quoted(cell.data.params['variant'])}`",
        ]
    return "\n".join([*lines, "- failed runs: `attributes.status = 'FAILED'`", ""])


def of_searches(experiment_id: str, view: View, key: str, cell: str) -> str:
    """How to find the samples of an experiment's searches, with the newest search as an example."""
    return (
        f"{_listed(experiment_id, [view])} A run for each sample of a search, with its values and validation scores.\n"
        "\n"
        "In the search box:\n\n"
        "- the best sample of each search: `tags.best = 'true'`\n"
        f"- the samples of the newest search, of {cell}: `tags.search = {_quoted(key)}`\n"
        "- samples that ASHA stopped early: `tags.outcome = 'stopped'`\n"
    )


def of_cell(experiment_id: str, runs: Sequence[Run]) -> str:
    """Which of a cell's runs is best, and how to load its model; and which failed, and why.

    Args:
        experiment_id: MLflow's.
        runs: the cell's runs, finished and failed.
    """
    scored = [run for run in runs if run.info.status == "FINISHED" and "val/iwae" in run.data.metrics]
    parts = []
    if scored:
        best = max(scored, key=lambda run: (run.data.metrics["val/iwae"], run.data.tags[RUN_KEY]))
        metrics = best.data.metrics
        scores = f"validation IWAE {metrics['val/iwae']:.2f}"
        if "test/iwae" in metrics:
            scores += f", test IWAE {metrics['test/iwae']:.2f}"
        parts.append(
            f"Best run by validation, whose pictures are among the artifacts: {_link(experiment_id, best)}, "
            f"{scores} nats per image. Its model:\n\n"
            f'```\nmodel = rme.load("runs:/{best.info.run_id}")\n```\n'
        )
    failed = [run for run in runs if run.info.status == "FAILED"]
    if failed:
        names = [_link(experiment_id, run) for run in sorted(failed, key=lambda run: run.info.run_name)]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        parts.append(f"Failed: {', '.join(names[:LISTED])}{more}\n")
    return "\n".join(parts)


def of_failure(reason: str, traceback: bool) -> str:
    """Why a run failed, and what to do. `traceback`: whether the run has that file."""
    where = f" The traceback is in the artifact `{TRACEBACK}`." if traceback else ""
    return f"This run failed:\n\n    {reason}\n\n`--retry-failed` trains it again.{where}\n"


def _example(cells: Sequence[Run]) -> Run:
    """The cell of the examples: of a method that is no control, if there is one; the first by name."""
    controls = (BASELINE, CONTROL)
    return min(cells, key=lambda cell: (cell.data.params["method"] in controls, cell.data.tags["cell"]))


def _listed(experiment_id: str, views: Sequence[View]) -> str:
    links = ", ".join(f"[{view.name}]({address(experiment_id, view)})" for view in views)
    return f"Views: {links}."


def _link(experiment_id: str, run: Run) -> str:
    name = re.sub(r"([\\\[\]*_`<>])", r"\\\1", run.info.run_name or run.info.run_id)
    return f"[{name}]({address_of_run(experiment_id, run.info.run_id)})"


def _quoted(value: str) -> str:
    """A value as MLflow's search reads it."""
    return f'"{value}"' if "'" in value else f"'{value}'"
