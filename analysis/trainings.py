"""How each row was trained, and which row is its equal control: the VAE trained as long at the same rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.cells import cell_of
from analysis.names import BASELINE, CELL, CONTROL, CONTROLS, ROW
from analysis.rate_text import rate_text
from analysis.stats import KEY_TYPES, natural

Key = tuple[str, int | None, str | None]
"""Method, order and variant: identifies a row within a column."""

NO_CONTROL = "no control with equal training was run"


@dataclass(frozen=True)
class Training:
    """The settings with which a row was trained; None if not recorded.

    Attributes:
        staged: whether the row starts from a finished VAE.
        epochs: of the training from scratch: the row's own, or that of the VAE that it starts from.
        learning_rate: Adam's rate in those epochs.
        finish_epochs, finish_rate: the last of those epochs, and their rate; 0 and None without a finish.
        stage_epochs, stage_rate: of the stage; 0 and None without one.
        keep, stage_keep: which epoch's parameters are kept (`last` or `best`); stage_keep is None without a stage.
        patience, stage_patience: epochs; None without early stopping.
        rest: the other settings that an equal training shares: restarts, batch size, precision.
    """

    staged: bool
    epochs: int | None
    learning_rate: float | None
    finish_epochs: int
    finish_rate: float | None
    stage_epochs: int
    stage_rate: float | None
    keep: str
    stage_keep: str | None
    patience: int | None
    stage_patience: int | None
    rest: tuple[str | None, ...]

    @property
    def is_trained(self) -> bool:
        """Whether the row is trained at all. SVI is not: it optimises each image's posterior under a finished VAE."""
        return not self.staged or self.stage_epochs > 0

    @property
    def rate(self) -> float | None:
        """Adam's rate in the row's own training, before any finish; None if it is not trained."""
        if not self.is_trained:
            return None
        return self.stage_rate if self.staged else self.learning_rate


def training_of(run: Mapping[Any, Any]) -> Training:
    """Training of a run: a row of the frame that `analysis.collect.collect` returns. Columns may be missing."""

    def known(name: str) -> Any:
        value = run.get(name)
        return None if value is None or pd.isna(value) else value

    def number(name: str) -> int | None:
        return None if known(name) is None else int(known(name))

    stage, finish = number("stage_epochs") or 0, number("finish_epochs") or 0
    patience, stage_patience = number("patience"), number("stage_patience")
    keep = known("keep") or "last"  # older runs, which do not record it, always kept the last epoch
    # in older runs a stage without a rate of its own was trained at the VAE's rate
    stage_rate = known("stage_learning_rate") if known("stage_learning_rate") is not None else known("learning_rate")
    rest = (known(name) for name in ("restarts", "batch_size", "precision"))
    return Training(
        staged=known("starts_from") == BASELINE or stage > 0,
        epochs=number("epochs"),
        learning_rate=known("learning_rate"),
        finish_epochs=finish,
        finish_rate=known("finish_learning_rate") if finish else None,
        stage_epochs=stage,
        stage_rate=stage_rate if stage else None,
        keep=keep,
        stage_keep=(known("stage_keep") or keep) if stage else None,
        patience=patience,
        stage_patience=(patience if stage_patience is None else stage_patience) if stage else None,
        rest=tuple(None if value is None else str(value) for value in rest),
    )


# ---------------------------------------------------------------------- rows and their controls
def key_of(cell: Any) -> Key:
    """Key of a cell or run: anything with method, order and variant."""
    method, order, variant = cell_of(cell, ROW)
    return method, None if order is None else int(order), variant


def by_row(column: pd.DataFrame) -> dict[Key, pd.DataFrame]:
    """The runs of each row of a column."""
    groups = column.astype(KEY_TYPES).groupby(ROW, dropna=False)
    return {key_of(runs.iloc[0]): runs for _, runs in groups}


def trainings(column: pd.DataFrame) -> dict[Key, Training]:
    """Training of each row of one column, read from its first run: all runs of a cell have the same settings."""
    first = column.drop_duplicates(ROW)
    return {key_of(run): training_of(run) for run in first.to_dict("records")}


def start_of(key: Key, known: Mapping[Key, Training]) -> Key | None:
    """Row of the finished VAE that a row starts from; None if it starts from scratch, or that VAE is not in `known`.

    Args:
        key: a row.
        known: the trainings of all rows of its column (`trainings`).
    """
    own = known[key]
    if not own.staged:
        return None
    vae = replace(own, staged=False, stage_epochs=0, stage_rate=None, stage_keep=None, stage_patience=None)
    return _first(BASELINE, lambda other: other == vae, known)


def equal_control(key: Key, known: Mapping[Key, Training]) -> Key | None:
    """Row with the same training but the VAE's posterior and objective; None if there is none, or `key` is a control.

    - Of a row with a stage: `vae-more` with the same stage from the same VAE.
    - Of a row from scratch, or one that starts from a VAE and is not trained: the VAE with the same epochs and finish.
      If that was not run, `vae-more` with a stage equal to the finish; it differs only in that Adam's state is new.

    Args:
        key: a row.
        known: the trainings of all rows of its column (`trainings`).
    """
    if key[0] in CONTROLS:
        return None
    own = known[key]
    if own.stage_epochs:
        return _first(CONTROL, lambda other: other == own, known)
    from_scratch = Training(**{**vars(own), "staged": False})
    found = _first(BASELINE, lambda other: other == from_scratch, known)
    if found is None and own.finish_epochs and not own.staged and own.epochs is not None:
        staged = Training(**{
            **vars(own), "staged": True, "epochs": own.epochs - own.finish_epochs, "finish_epochs": 0,
            "finish_rate": None, "stage_epochs": own.finish_epochs, "stage_rate": own.finish_rate,
            "stage_keep": own.keep, "stage_patience": own.patience,
        })  # fmt: skip
        found = _first(CONTROL, lambda other: other == staged, known)
    return found


def _first(method: str, is_equal: Any, known: Mapping[Key, Training]) -> Key | None:
    """The row of a method with an equal training: the one without a variant if it is equal, else the first; or None."""
    equal = [key for key, training in known.items() if key[0] == method and is_equal(training)]
    return min(equal, key=lambda key: natural(key[2]), default=None)


# ---------------------------------------------------------------------- in words
HEADER = ["Where", "Row", "Start", "Epochs", "Rate", "Finish", "Kept epoch", "Updates a step", "Parameters"]


def described(runs: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """(data set, texts of the columns of `HEADER`) for each cell; a text is empty if nothing was recorded.

    Args:
        runs: trainings, one row for each run, in the order of the cells to return.
    """
    found = []
    for _, cell in runs.astype(KEY_TYPES).groupby(CELL, dropna=False, sort=False):
        first = cell.iloc[0]
        decoder = "" if first["decoder"] == "conv" else f" {first['decoder']}"
        where = f"{first['dataset_label']} d{first['dim']}{decoder}"
        found.append((str(first["dataset"]), [where, first["method_label"], *_words(cell)]))
    return found


def _words(cell: pd.DataFrame) -> list[str]:
    training = training_of(cell.iloc[0].to_dict())
    epochs = "" if training.epochs is None else str(training.epochs)
    if training.staged:
        epochs += f" + {training.stage_epochs}"
    limits = [] if training.patience is None else [f"patience {training.patience}"]
    if training.stage_patience not in (None, training.patience):
        limits.append(f"the stage's patience {training.stage_patience}")
    if training.finish_epochs:
        whose = "the VAE's last" if training.staged else "the last"
        finish = f"{whose} {training.finish_epochs} at {rate_text(training.finish_rate)}"
    else:
        finish = "none"
    return [
        f"the VAE at {rate_text(training.learning_rate)}" if training.staged else "scratch",
        ", ".join([epochs, *limits]),
        rate_text(training.rate) if training.is_trained else "not trained",
        finish,
        _kept(cell, training),
        *(_spread(cell, name) for name in ("updates", "parameters")),
    ]


def _kept(cell: pd.DataFrame, training: Training) -> str:
    """Which epoch was kept: `last`, or `best: 7 (5 to 8)` with its median and range over the runs, if recorded."""
    if not training.is_trained:
        return ""
    which = training.stage_keep or training.keep
    kept = cell["kept_epoch"].dropna() if "kept_epoch" in cell else pd.Series(dtype=int)
    if kept.empty:
        return which if "keep" in cell and cell["keep"].notna().any() else ""
    values = kept.to_numpy(dtype=float)
    spread = f"{values.min():.0f} to {values.max():.0f}"
    return f"{which}: {np.median(values):g}" + (f" ({spread})" if values.min() < values.max() else "")


def _spread(cell: pd.DataFrame, name: str) -> str:
    values = sorted(cell[name].dropna().unique()) if name in cell else []
    return " or ".join(f"{value:,}" for value in values)
