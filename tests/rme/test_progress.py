"""What a run on its own shows in a terminal."""

from __future__ import annotations

import numpy as np

import rme
from tests.tiny import blobs


def test_a_run_shows_its_epochs_and_its_best_elbo(tiny, tmp_path, capsys) -> None:
    images = {"train": blobs(40, (1, 28, 28), 1), "test": blobs(12, (1, 28, 28), 2)}
    np.savez(tmp_path / "spots.npz", **{name: value[:, 0].numpy() for name, value in images.items()})
    result = rme.fit(tiny.spec(dataset=str(tmp_path / "spots.npz"), restarts=2), progress=True, device="cpu")
    shown = capsys.readouterr().err
    assert "spots d3 VAE seed 0" in shown and "2/2" in shown
    assert f"val ELBO {result.history_elbo[-1].max():.1f}" in shown


def test_nothing_is_shown_where_nobody_looks(tiny, tmp_path, capsys) -> None:
    np.savez(tmp_path / "spots.npz", train=blobs(40, (1, 28, 28), 1)[:, 0], test=blobs(12, (1, 28, 28), 2)[:, 0])
    rme.fit(tiny.spec(dataset=str(tmp_path / "spots.npz"), epochs=1), device="cpu")
    assert capsys.readouterr().err == ""
