"""The saved views of an experiment's page in MLflow: which runs it lists, in which order, with which columns.

A view is a tag of the experiment, as MLflow's own button "Views" writes it. MLflow lists it there, and a link opens it.
Versions of MLflow before 3.17 know a view by its link alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

TAG = "mlflow.sharedViewState."
"""What the name of a view's tag begins with; its key follows."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment that trains models."""

_TRAINING = {"workflowType": "machine_learning"}
"""Part of an address: MLflow 3.17 does not look at an experiment's kind, and opens the page of GenAI traces unless the
address, or this browser's last choice, is model training."""


@dataclass(frozen=True)
class View:
    """A view of the runs.

    Attributes:
        key: part of the tag's name and of the address.
        name: in the list of views.
        search: what is in the search box.
        order: the column by which runs are sorted, such as "metrics.`cell/mean`". If it is the start time, MLflow adds
            each run's cell, and folds the run away below it.
        columns: the columns beside name, time and duration, in this order.
        ascending: whether the lowest comes first.
        widths: of columns with long texts, in pixels.
    """

    key: str
    name: str
    search: str
    order: str
    columns: tuple[str, ...]
    ascending: bool = False
    widths: Mapping[str, int] = field(default_factory=dict)

    def tag(self, created_ms: int) -> tuple[str, str]:
        """Name and value of the experiment's tag. `created_ms`: when the view was made, ms since 1970."""
        state = {
            "searchFilter": self.search,
            "orderByKey": self.order,
            "orderByAsc": self.ascending,
            "selectedColumns": list(self.columns),
            "columnOrder": list(self.columns),
            "columnWidths": dict(self.widths),
        }
        about = {"name": self.name, "createdAt": created_ms, "updatedAt": created_ms, "state": json.dumps(state)}
        return f"{TAG}{self.key}", json.dumps(about)


CELLS = View(
    "rme-cells",
    "Cells by mean",
    "tags.cell_key != ''",
    "metrics.`cell/mean`",
    tuple(f"metrics.`cell/{name}`" for name in ("mean", "sd", "n", "rank", "p")),
)
RUNS = View(
    "rme-runs",
    "Runs by validation",
    "tags.run_key != ''",
    "metrics.`val/iwae`",
    (
        "metrics.`val/iwae`", "metrics.`test/iwae`", "metrics.`test/elbo`", "metrics.`time/train_s`",
        "tags.`kept_epoch`", "tags.`device`", "attributes.`Dataset`",
    ),
)  # fmt: skip
TIMINGS = View(
    "rme-timings",
    "Timings",
    "tags.run_key != ''",
    "metrics.`time/ratio_to_vae`",
    (
        "metrics.`time/ratio_to_vae`", "metrics.`time/ratio_to_vae_sd`", "metrics.`time/inference_ms`",
        "metrics.`time/inference_ms_sd`", "tags.`device`",
    ),
    ascending=True,
)  # fmt: skip
FAILED = View(
    "rme-failed",
    "Failed runs",
    "attributes.status = 'FAILED' and tags.run_key != ''",
    "tags.`mlflow.runName`",
    ("tags.`failure`",),
    ascending=True,
    widths={"tags.`failure`": 700},
)


def address(experiment_id: str, view: View) -> str:
    """The part of a view's address that follows the server's, such as `http://localhost:5000/`."""
    return f"#/experiments/{experiment_id}/runs?{urlencode({**_TRAINING, 'viewStateShareKey': view.key})}"


def address_of_run(experiment_id: str, mlflow_run_id: str) -> str:
    """As `address`, of a run's page."""
    return f"#/experiments/{experiment_id}/runs/{mlflow_run_id}?{urlencode(_TRAINING)}"


def outdated(tags: Mapping[str, str], view: View, created_ms: int) -> bool:
    """Whether an experiment with these tags lacks the view, or has it otherwise, and its user has not changed it."""
    name, value = view.tag(created_ms)
    if name not in tags:
        return True
    try:
        about = json.loads(tags[name])
        return tags[name] != value and about["updatedAt"] == about["createdAt"]
    except (ValueError, TypeError, KeyError):
        return False
