"""Reading runs back from a real MLflow database, written here in the sweep's layout."""

from __future__ import annotations

import hashlib
import sqlite3

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from sqlalchemy import Engine, event

from analysis import collect as collecting
from analysis.collect import AmbiguousRuns, CollectError, collect, failures
from tests.databases import blank_database

STAGE = {"stage_epochs": 5, "stage_learning_rate": 1e-6}
"""Of the methods that start from a finished VAE."""

LABELS = {
    "vae": "VAE",
    "vae-more": "VAE-more",
    "sa": "SA",
    "rme": "RME",
    "bvi-er1": "BVI-ER1",
    "vlae": "VLAE",
    "svi": "SVI",
}


@event.listens_for(Engine, "connect")
def _wait_for_no_disk(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # no test pulls the plug, and each run waits for the disk thrice


class Store:
    """A tracking store of its own, and a short way to record a run in it."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("store")
        self.uri = blank_database(folder / "mlflow.db")
        self.client = MlflowClient(self.uri)
        self.folder = folder
        self.experiments: dict[str, str] = {}

    def experiment(self, name: str) -> str:
        if name not in self.experiments:
            found = self.client.get_experiment_by_name(name)
            self.experiments[name] = (
                found.experiment_id if found
                else self.client.create_experiment(name, (self.folder / "artifacts").as_uri())
            )  # fmt: skip
        return self.experiments[name]

    def run(
        self,
        experiment: str,
        method: str,
        order: int | None,
        seed: int,
        score: float | None = None,
        *,
        dim: int = 10,
        dataset: str = "mnist",
        label: str = "MNIST",
        decoder: str = "conv",
        status: str = "FINISHED",
        failure: str | None = None,
        commit: str = "abc1234",
        method_label: str | None = None,
        parent: str | None = None,
        tags: dict[str, str] | None = None,
        **params: object,
    ) -> str:
        variant = f", {params['variant']}" if "variant" in params else ""
        method_label = method_label or (LABELS[method] if order is None else f"{LABELS[method]}({order})") + variant
        params = {
            "method": method, "order": order, "dataset": dataset, "dim": dim, "decoder": decoder, "seed": seed,
            "restarts": 3, "epochs": 20, "learning_rate": 5e-4, "batch_size": 128, "kl_max": 500.0,
            **(STAGE if method in ("rme", "bvi-er1", "vae-more") else {}), **params,
        }  # fmt: skip
        cell = f"{label} d{dim} {method_label}"
        tags = (tags or {}) | {
            "run_key": hashlib.sha256(repr(params).encode()).hexdigest()[:16], "cell": cell, "device": "cpu",
            "method_label": method_label, "dataset_label": label, "git_commit": commit, "torch_version": "2.14.1",
            "chosen_restart": "1",
        }  # fmt: skip
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        metrics = {}
        if score is not None:
            metrics = {
                "test/iwae": score, "test/elbo": score - 5, "val/iwae": score + 1, "val/elbo": score - 4,
                "time/inference_ms": 4.8, "time/train_s": 1800.0,
            }  # fmt: skip
        if failure is not None:
            tags["failure"] = failure
        run = self.client.create_run(self.experiment(experiment), run_name=f"{cell} seed {seed}")
        self.client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, run.info.start_time, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        self.client.set_terminated(run.info.run_id, status)
        return run.info.run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory)


def test_a_run_comes_back_as_it_was_recorded(store):
    run_id = store.run("whole", "rme", 5, 3, 697.25)
    store.run("whole", "vae", None, 3, 685.5)
    rme, vae = (collect(store.uri, "whole").set_index("method").loc[name] for name in ("rme", "vae"))
    assert rme[["order", "method_label", "dataset", "dataset_label", "dim", "decoder", "seed"]].tolist() == [
        5, "RME(5)", "mnist", "MNIST", 10, "conv", 3,
    ]  # fmt: skip
    assert rme[["restarts", "epochs", "chosen_restart"]].tolist() == [3, 20, 1]
    assert rme[["test_iwae", "test_elbo", "val_iwae", "val_elbo"]].tolist() == [697.25, 692.25, 698.25, 693.25]
    assert rme[["inference_ms", "train_s"]].tolist() == [4.8, 1800.0]
    assert rme[["device", "git_commit", "torch_version"]].tolist() == ["cpu", "abc1234", "2.14.1"]
    assert rme["mlflow_run_id"] == run_id and len(rme["run_key"]) == 16
    assert rme["start_time"].tzinfo is not None and rme["start_time"].year >= 2024
    assert rme["kl_max"] == "500.0" and rme["batch_size"] == "128"
    assert pd.isna(vae["order"]) and vae["method_label"] == "VAE"


def test_how_it_was_trained_comes_back_too(store):
    tags = {"starts_from": "vae", "kept_epoch": "7", "updates": "4", "parameters": "123456"}
    store.run("trained", "rme", 2, 0, 1.0, tags=tags, variant="kl 20", keep="best", stage_epochs=8,
              stage_learning_rate=2e-5, finish_epochs=3, finish_learning_rate=1e-5, patience=10)  # fmt: skip
    store.run("trained", "vae", None, 0, 1.0)
    rme, vae = (collect(store.uri, "trained").set_index("method").loc[name] for name in ("rme", "vae"))
    names = [
        "variant", "method_label", "starts_from", "kept_epoch", "updates", "parameters", "learning_rate",
        "stage_epochs", "stage_learning_rate", "finish_epochs", "finish_learning_rate", "keep", "patience",
    ]  # fmt: skip
    assert rme[names].tolist() == [
        "kl 20", "RME(2), kl 20", "vae", 7, 4, 123456, 5e-4, 8, 2e-5, 3, 1e-5, "best", 10,
    ]  # fmt: skip
    # of a run that was recorded before there were such
    assert vae[[name for name in names if name not in ("method_label", "learning_rate")]].isna().all()


def test_variants_are_cells_of_their_own(store):
    for kl_max, more in ((500.0, {}), (20.0, {"variant": "kl 20"}), (100.0, {"variant": "kl 100"})):
        for seed in range(2):
            store.run("variants", "rme", 2, seed, kl_max + seed, kl_max=kl_max, **more)
    frame = collect(store.uri, "variants")
    labels = ["RME(2)", "RME(2), kl 20", "RME(2), kl 100"]  # the numbers in them by size
    assert frame["method_label"].unique().tolist() == labels
    assert collect(store.uri, "variants", {"variant": "kl 20"})["test_iwae"].tolist() == [20.0, 21.0]
    assert collect(store.uri, "variants", {"variant": "None"})["test_iwae"].tolist() == [500.0, 501.0]
    store.run("variants", "rme", 2, 0, 1.0, kl_max=30.0, variant="kl 20")
    with pytest.raises(AmbiguousRuns, match=r"RME\(2\), kl 20 has seed 0 twice, which differ in kl_max 20.0 or 30.0"):
        collect(store.uri, "variants")


def test_types(store):
    store.run("types", "vae", None, 0, 1.0)
    frame = collect(store.uri, "types")
    assert all(str(frame[name].dtype) == "Int64" for name in ("order", "dim", "seed", "restarts", "epochs"))
    assert frame["test_iwae"].dtype == float


def test_only_finished_runs_count(store):
    store.run("mixed", "vae", None, 0, 1.0)
    store.run("mixed", "vae", None, 1, status="FAILED", failure="out of memory")
    store.run("mixed", "vae", None, 2, 3.0, status="RUNNING")
    deleted = store.run("mixed", "vae", None, 3, 4.0)
    store.client.delete_run(deleted)
    summary = store.client.create_run(store.experiment("mixed"), run_name="MNIST d10 VAE")  # a cell: no run_key
    store.client.set_terminated(summary.info.run_id)
    assert collect(store.uri, "mixed")["seed"].tolist() == [0]


def test_all_pages_are_read(store, monkeypatch):
    for seed in range(7):
        store.run("pages", "vae", None, seed, float(seed))
    monkeypatch.setattr(collecting, "_PAGE", 3)
    assert collect(store.uri, "pages")["seed"].tolist() == list(range(7))


def test_numbers_that_are_none(store):
    store.run("nan", "vae", None, 0, float("nan"))
    store.run("nan", "vae", None, 1, float("-inf"))
    store.run("nan", "vae", None, 2)
    assert np.isnan(collect(store.uri, "nan")["test_iwae"]).all()


def test_a_run_recorded_twice_counts_once(store):
    store.run("again", "vae", None, 0, 1.0)
    store.run("again", "vae", None, 0, 2.0)
    assert collect(store.uri, "again")["test_iwae"].tolist() == [2.0]


def test_two_settings_in_one_cell_have_to_be_chosen_from(store):
    for kl_max in (500.0, 100.0):
        store.run("two", "rme", 2, 4, kl_max, kl_max=kl_max)
    with pytest.raises(AmbiguousRuns) as raised:
        collect(store.uri, "two")
    message = str(raised.value)
    for part in ("MNIST d10 conv RME(2)", "seed 4", "kl_max 100.0 or 500.0", "where={'kl_max': '100.0'}", "--where"):
        assert part in message
    assert "batch_size" not in message and message.endswith("a grid tells two settings of one row apart by a `variant`")
    assert collect(store.uri, "two", where={"kl_max": "500.0"})["test_iwae"].tolist() == [500.0]
    assert collect(store.uri, "two", where={"kl_max": "100"})["test_iwae"].tolist() == [100.0]


def test_two_settings_in_different_seeds_are_no_repetitions(store):
    store.run("drift", "vae", None, 0, 1.0, epochs=20)
    store.run("drift", "vae", None, 1, 2.0, epochs=40)
    with pytest.raises(AmbiguousRuns, match="epochs 20 or 40"):
        collect(store.uri, "drift")
    assert collect(store.uri, "drift", where={"epochs": "40"})["seed"].tolist() == [1]


def test_fields_that_a_method_does_not_read_may_differ_under_one_parent(store):
    for seed, kl_max in enumerate((500.0, 100.0)):
        store.run("unread", "vae", None, seed, 1.0, kl_max=kl_max, parent="0123abcd")
    assert collect(store.uri, "unread")["seed"].tolist() == [0, 1]


def test_where_keeps_runs_that_the_field_does_not_concern(store):
    store.run("concern", "rme", 2, 0, 1.0, eps_max=0.1)
    store.run("concern", "rme", 3, 0, 2.0, eps_max=0.2)
    store.run("concern", "vae", None, 0, 3.0)
    assert collect(store.uri, "concern", where={"eps_max": "0.2"})["test_iwae"].tolist() == [2.0, 3.0]


def test_where_with_an_unknown_field(store):
    store.run("unknown", "vae", None, 0, 1.0)
    with pytest.raises(CollectError, match=r"no run has that field; did you mean kl_max\? valid fields are .*kl_max"):
        collect(store.uri, "unknown", where={"klmax": "1"})


def test_failures_with_their_reasons(store):
    store.run("fail", "vae", None, 0, status="FAILED", failure="NaN in epoch 7")
    store.run("fail", "rme", 2, 1, status="FAILED", failure="out of memory")
    store.run("fail", "rme", 2, 1, 5.0)  # a later attempt that went well
    store.run("fail", "sa", 1, 0, 5.0)
    frame = failures(store.uri, "fail")
    assert frame[["method_label", "seed", "reason"]].values.tolist() == [["VAE", 0, "NaN in epoch 7"]]
    store.run("unfailing", "vae", None, 3, 685.5)
    assert failures(store.uri, "unfailing").empty
    assert failures(store.uri, "fail", where={"of_other_methods": "1"})["seed"].tolist() == [0]
    assert failures(store.uri, "fail", where={"epochs": "21"}).empty


def test_no_finished_run_gives_an_empty_frame_with_columns(store):
    store.experiment("empty")
    frame = collect(store.uri, "empty")
    assert frame.empty and {"method", "test_iwae", "start_time"} <= set(frame.columns)


def test_unknown_experiment_names_those_that_exist(store):
    store.experiment("smoke")
    with pytest.raises(CollectError, match=r"no experiment 'papre'.*smoke"):
        collect(store.uri, "papre")


def test_a_deleted_experiment_is_none(store):
    store.run("gone", "vae", None, 0, 1.0)
    store.client.delete_experiment(store.experiment("gone"))
    with pytest.raises(CollectError, match="no experiment 'gone'"):
        collect(store.uri, "gone")


def test_a_run_without_what_identifies_it(store):
    run = store.client.create_run(store.experiment("broken"), tags={"run_key": "0" * 16}, run_name="odd")
    store.client.log_param(run.info.run_id, "method", "vae")
    store.client.set_terminated(run.info.run_id)
    with pytest.raises(CollectError, match=r"\(odd\) has no param order, dataset"):
        collect(store.uri, "broken")


def test_a_missing_database_is_not_created(tmp_path):
    for uri in (f"sqlite:///{tmp_path}/none.db", f"sqlite+pysqlite:///{tmp_path}/none.db", "sqlite://none.db"):
        with pytest.raises(CollectError, match="no MLflow database at"):
            collect(uri, "smoke")
    assert list(tmp_path.iterdir()) == []


def test_a_database_of_something_else_is_left_alone(tmp_path):
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE birds (name)").connection.close()
    (tmp_path / "text.db").write_text("not a database, " * 100)
    for name in ("other.db", "text.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(CollectError, match="is not an MLflow database"):
            collect(f"sqlite:///{tmp_path}/{name}", "smoke")
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://x", "http://"])
def test_a_store_that_cannot_be_reached(uri):
    with pytest.raises(CollectError, match=uri) as raised:
        collect(uri, "smoke")
    assert "\n" not in str(raised.value)
