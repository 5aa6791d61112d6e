"""The images of a grid before anything starts: a user's own are checked for each batch size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from rme.data import DataError
from tests.sweeping import write_grid
from tests.tiny import write_npz
from tune.plan.grid import load
from tune.run.images import prepare_images


def prepared(path: Path, tmp_path: Path, rows: list[dict]) -> str:
    """What is printed for a grid of these rows on a data set."""
    grid = load(str(write_grid(tmp_path / "any.yaml", rows, dataset=str(path))))
    output = io.StringIO()
    prepare_images(grid, tmp_path, Console(file=output, width=40))
    return output.getvalue()


def test_a_batch_size_above_the_number_of_images_is_refused_whichever_run_has_it(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "spots.npz", train=20)
    rows = [{"method": "vae", "seed": "0-2"}, {"method": "vae", "dim": 4, "batch_size": 18}]
    assert prepared(path, tmp_path, rows) == ""
    with pytest.raises(DataError, match=r"spots\.npz: 18 training images.*batch_size=19"):
        prepared(path, tmp_path, [*rows, {"method": "vae", "dim": 5, "batch_size": 19}])


def test_a_warning_is_printed_once_on_one_line(tmp_path: Path) -> None:
    with np.load(write_npz(tmp_path / "spots.npz", train=20)) as arrays:
        np.savez(tmp_path / "[red]same.npz", train=arrays["train"], test=arrays["train"][:2])
    rows = [{"method": "vae"}, {"method": "vae", "dim": 4, "batch_size": 18}]
    warning = f"{tmp_path / '[red]same.npz'}: 2 test images are training images too, of 2"
    printed = prepared(tmp_path / "[red]same.npz", tmp_path, rows)
    assert printed.startswith(warning) and printed.count("\n") == 1


def test_data_sets_of_the_project_and_timings_are_not_checked(tmp_path: Path) -> None:
    grid = load(str(write_grid(tmp_path / "any.yaml", [{"method": "vae"}], dataset="digits", batch_size=5000)))
    prepare_images(grid, tmp_path, Console(file=io.StringIO()))
    path = write_npz(tmp_path / "spots.npz")
    (tmp_path / "speed.yaml").write_text(
        f"name: speed\nkind: timing\nrows: [{{method: vae, dataset: '{path}', dim: 3, batch_size: 500}}]"
    )
    prepare_images(load(str(tmp_path / "speed.yaml")), tmp_path, Console(file=io.StringIO()))
