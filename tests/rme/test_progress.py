"""The progress bar of a single run, and of other long work."""

from __future__ import annotations

import rme
from rme import progress
from tests.tiny import write_npz


def test_a_run_shows_its_epochs_and_its_best_elbo(tiny, tmp_path, capsys) -> None:
    dataset = str(write_npz(tmp_path / "spots.npz"))
    result = rme.fit(tiny.spec(dataset=dataset, restarts=2, batch_size=4), progress=True, device="cpu")
    shown = capsys.readouterr().err
    assert "spots d3 VAE seed 0" in shown and "2/2" in shown
    assert f"val ELBO {result.history_elbo[-1].max():.1f}" in shown


def test_nothing_is_shown_by_default(tiny, tmp_path, capsys) -> None:
    dataset = str(write_npz(tmp_path / "spots.npz"))
    rme.fit(tiny.spec(dataset=dataset, epochs=1, batch_size=4), device="cpu")
    assert capsys.readouterr().err == ""


def test_steps_pass_on_their_items_with_a_bar_and_without(capsys) -> None:
    assert list(progress.steps([1, 2, 3], "scoring")) == [1, 2, 3]
    assert capsys.readouterr().err == ""
    assert list(progress.steps([1, 2, 3], "scoring", True)) == [1, 2, 3]
    shown = capsys.readouterr().err
    assert "scoring" in shown and "3/3" in shown


def test_a_bar_is_closed_when_the_work_raises(capsys) -> None:
    try:
        for item in progress.steps([1, 2], "scoring", True):
            raise KeyError(item)
    except KeyError:
        pass
    assert list(progress.steps([1], "again", True)) == [1]  # rich allows one live bar at a time
    assert "again" in capsys.readouterr().err
