"""Reading back what sweeps have recorded, from MLflow or from a storage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.library import runs
from analysis.runs import AmbiguousRuns, CollectError
from rme import fit
from tests.analysis.test_collect import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory)
    store.ids = [store.run("first", "vae", None, seed, score=-80.0 - seed) for seed in (0, 1)]
    store.run("second", "rme", 2, 0, score=-70.0, dim=10)
    return store


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny):
    """A storage of two runs of a cell and one of other settings; its folder and the results."""
    folder = tmp_path_factory.mktemp("storage")
    pair = (tiny.images.train, tiny.images.test)
    settings = [{"seed": 0, "epochs": 1}, {"seed": 1, "epochs": 1}, {"seed": 2, "epochs": 2}]
    specs = [tiny.spec(dataset="images", **each) for each in settings]
    found = [fit(spec, images=pair, device="cpu", progress=False) for spec in specs]
    for result in found:
        result.save(folder / "runs" / result.spec.key)
    return folder, found


def test_the_runs_of_an_experiment(store, monkeypatch):
    frame = runs("first", tracking_uri=store.uri)
    assert frame["mlflow_run_id"].tolist() == store.ids
    assert frame["test_iwae"].tolist() == [-80.0, -81.0] and frame["val_iwae"].tolist() == [-79.0, -80.0]
    assert runs("first", tracking_uri=store.uri, where={"seed": 1})["mlflow_run_id"].tolist() == store.ids[1:]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert runs("second")["method_label"].tolist() == ["RME(2)"]


def test_the_runs_of_a_storage(results):
    folder, found = results
    frame = runs(storage=folder, where={"epochs": 1})
    assert frame["run_key"].tolist() == [found[0].spec.key, found[1].spec.key]
    expected = [np.asarray(result.test_iwae).mean() for result in found[:2]]
    assert frame["test_iwae"].to_numpy() == pytest.approx(np.array(expected), rel=1e-6)
    assert runs(storage=str(folder), where={"seed": 2})["epochs"].tolist() == [2]


def test_two_settings_of_a_cell_must_be_chosen_from(results):
    with pytest.raises(AmbiguousRuns, match="epochs 1 or 2"):
        runs(storage=results[0])


def test_what_there_is_is_named(store, tmp_path):
    with pytest.raises(CollectError, match=r"^give experiment=NAME or storage=DIR; .* are Default, first, second$"):
        runs(tracking_uri=store.uri)
    with pytest.raises(CollectError, match=r"no experiment 'third' .* it has Default, first, second"):
        runs("third", tracking_uri=store.uri)
    with pytest.raises(CollectError, match="no MLflow database at"):
        runs(tracking_uri=f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(CollectError, match="is no storage"):
        runs(storage=tmp_path)
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize("arguments", [{"experiment": "first"}, {"tracking_uri": "sqlite:///mlflow.db"}])
def test_an_experiment_and_a_storage_exclude_each_other(arguments):
    with pytest.raises(CollectError, match=r"storage='storage' and .* give one of them"):
        runs(storage="storage", **arguments)
