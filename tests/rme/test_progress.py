"""The progress bar of a single run."""

from __future__ import annotations

import rme
from tests.tiny import write_npz


def test_a_run_shows_its_epochs_and_its_best_elbo(tiny, tmp_path, capsys) -> None:
    dataset = str(write_npz(tmp_path / "spots.npz"))
    result = rme.fit(tiny.spec(dataset=dataset, restarts=2), progress=True, device="cpu")
    shown = capsys.readouterr().err
    assert "spots d3 VAE seed 0" in shown and "2/2" in shown
    assert f"val ELBO {result.history_elbo[-1].max():.1f}" in shown


def test_nothing_is_shown_by_default(tiny, tmp_path, capsys) -> None:
    dataset = str(write_npz(tmp_path / "spots.npz"))
    rme.fit(tiny.spec(dataset=dataset, epochs=1), device="cpu")
    assert capsys.readouterr().err == ""
