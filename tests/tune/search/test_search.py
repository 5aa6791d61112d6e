"""Searches as a user runs them, on real Ray and MLflow; search spaces; and that the test set is not used."""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient

from rme import RunSpec, data
from rme.config import SpecError
from rme.engine import DivergedError
from rme.selection import results
from rme.training import build, train, validate
from tests.databases import blank_database
from tests.sweeping import Hold, Sweep, is_stopping, processes_of, wait_for, write_grid
from tests.tiny import write_npz
from tune.command_line import options_of, parse
from tune.run.protocol import Job, Outcome
from tune.run.ray_worker import STOP_EVERY_S
from tune.run.stopping import TERMINATED, Stopping
from tune.search import space as spaces
from tune.search.halving import halving_of
from tune.search.samples import Samples, Status
from tune.search.search import _wanted, command_line
from tune.search.searcher import SampleSearcher
from tune.search.space import SpaceError
from tune.search.tracking import SearchTracker
from tune.store.failure import Failure
from tune.store.storage import Storage

ROWS = [{"method": "vae"}, {"method": "rme", "order": [2, 3]}]
SPACE = "stage_learning_rate: {log-uniform: [1e-5, 1e-2]}\neps_max: {uniform: [0.05, 0.5]}\n"


def cell(method: str = "rme", order: int | None = 2, **fields) -> RunSpec:
    return RunSpec(**{"method": method, "order": order, "dataset": "digits", "dim": 3, **fields})


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def sweep_for(folder: Path, dataset: Path, ray_folder: Path, hold: Hold | None = None, **defaults) -> Sweep:
    folder.mkdir()
    grid = write_grid(folder / "spots.yaml", ROWS, dataset=str(dataset), seed="0-1", **defaults)
    write(folder / "space.yaml", SPACE)
    return Sweep(folder, grid, ray_folder, hold=hold)


def asked(samples: int) -> list[str]:
    return [
        "--search", "optuna", "--samples", str(samples), "--space", "space.yaml", "--only", "method=rme", "--only",
        "order=2",
    ]  # fmt: skip


def found(sweep: Sweep) -> list[dict]:
    """The samples on the storage, without times."""
    files = sorted(sweep.storage.glob("search/*/[0-9]*.json"))
    clock = ("train_s", "ended_at")
    return [{k: v for k, v in json.loads(file.read_text()).items() if k not in clock} for file in files]


# ---------------------------------------------------------------------- the command
@pytest.fixture(scope="module")
def searched(tmp_path_factory, ray_folder):
    """A search of five samples, one at a time."""
    folder = tmp_path_factory.mktemp("search")
    sweep = sweep_for(folder / "a", write_npz(folder / "spots.npz"), ray_folder, stage_epochs=6)
    done = sweep.run(*asked(5), "--cpus-per-trial", str(slots()))
    assert done.returncode == 0, done.stderr
    return sweep, done


def slots() -> int:
    """All cores, so that one trial runs at a time and every search asks Optuna in the same order."""
    from tune.run.machine import available

    return available()["cpu"]


@pytest.mark.slow
def test_a_search_prints_and_records_the_best(searched):
    sweep, done = searched
    samples = found(sweep)
    assert [sample["number"] for sample in samples] == list(range(5))
    assert samples[0]["values"] == {"stage_learning_rate": 0.001, "eps_max": 0.1}, "the grid's own values come first"
    assert {sample["outcome"] for sample in samples} <= {"done", "stopped"}
    best = max((s for s in samples if s["val_iwae"] is not None), key=lambda s: s["val_iwae"])
    assert best["val_iwae"] == pytest.approx(sum(best["val_iwae_by_seed"].values()) / 2)
    client = MlflowClient(sweep.tracking)
    experiment = client.get_experiment_by_name("spots-search")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 5 and not any(name.startswith("test") for run in runs for name in run.data.metrics)
    (tagged,) = (run for run in runs if run.data.tags.get("best") == "true")
    assert tagged.data.metrics["val/iwae"] == pytest.approx(best["val_iwae"])
    assert float(tagged.data.params["eps_max"]) == best["values"]["eps_max"]
    # the parents were trained once, as runs of the grid
    assert sorted(run.info.run_name for run in sweep.runs()) == ["spots d3 VAE seed 0", "spots d3 VAE seed 1"]
    # the printed command runs the grid's cell with the best values, and nothing else
    words = shlex.split(done.stdout.strip().splitlines()[-1])
    plan = json.loads(sweep.run(*words[4:], "--plan", "--json").stdout)
    assert (plan["cells"], plan["runs"]) == (1, 2)
    again = sweep.run(*asked(5), "--cpus-per-trial", str(slots()))
    assert again.returncode == 0 and "5 samples have ended already" in again.stderr
    assert again.stdout == done.stdout and len(client.search_runs([experiment.experiment_id])) == 5


@pytest.mark.slow
def test_a_stopped_and_killed_search_resumes_with_the_same_samples(searched, tmp_path, ray_folder):
    """After SIGTERM, then kill -9, during a sample: samples and scores equal those of the uninterrupted search."""
    arguments = [*asked(5), "--cpus-per-trial", str(slots())]
    with Hold(tmp_path / "hold") as hold:
        sweep = sweep_for(tmp_path / "b", Path(data_of(searched[0])), ray_folder, hold, stage_epochs=6)
        hold.after(1)
        for wanted, signum in ((1, signal.SIGTERM), (3, signal.SIGKILL)):
            driver = sweep.start(*arguments)
            # trials run one at a time, so at most one sample more than wanted ends before this loop stops
            while sum(s["outcome"] != "open" for s in found(sweep)) < wanted:
                assert driver.poll() is None, "the search ended before it was killed"
                if hold.standing():
                    hold.let_go()
                time.sleep(0.02)
            wait_for(hold.standing, driver)
            assert list(sweep.storage.glob("search/*/*/epoch-*"))
            driver.send_signal(signum)
            if signum == signal.SIGTERM:
                wait_for(lambda: is_stopping(sweep), driver)
                time.sleep(STOP_EVERY_S)
                hold.let_go()
            assert driver.wait() == (143 if signum == signal.SIGTERM else -signum)
            wait_for(lambda: not processes_of(ray_folder))
            # ASHA may end a sample that is stopping
            assert signum == signal.SIGTERM or any(sample["outcome"] == "open" for sample in found(sweep))
    done = sweep.run(*arguments)
    assert done.returncode == 0, done.stderr
    assert found(sweep) == found(searched[0])


@pytest.mark.slow
def test_other_test_images_change_nothing(searched, tmp_path, ray_folder):
    with np.load(data_of(searched[0])) as arrays:
        np.savez(tmp_path / "spots.npz", train=arrays["train"], test=255 - arrays["test"][:7])
    sweep = sweep_for(tmp_path / "c", tmp_path / "spots.npz", ray_folder, stage_epochs=6)
    done = sweep.run(*asked(5), "--cpus-per-trial", str(slots()))
    assert done.returncode == 0, done.stderr
    assert found(sweep) == found(searched[0])


def data_of(sweep: Sweep) -> str:
    import yaml

    return yaml.safe_load((sweep.folder / "spots.yaml").read_text())["defaults"]["dataset"]


# ---------------------------------------------------------------------- without test images
def test_an_engine_without_test_images_has_the_same_validation_score(tiny):
    spec = tiny.spec("vae")
    with_test = build([spec], tiny.images, "cpu", None)
    without = build([spec], tiny.images.without_test(), "cpu", None)
    assert without.test_pixels.numel() == 0 and without.test_index.numel() == 0
    train(with_test)
    train(without)
    (result,) = results(with_test).values()
    assert not isinstance(result, DivergedError)
    assert validate(without)[0].tolist() == result.val_iwae.tolist()


def test_a_pool_s_test_images_are_not_indexed(tiny, monkeypatch):
    """As for CelebA, training and test images are one tensor, and the split separates them."""
    pool = data.get("digits")
    monkeypatch.setattr(type(pool), "split", lambda self, images, seed: data.get("celeba").split(images, seed))
    pooled = data.Images(tiny.images.train, tiny.images.train)
    assert build([tiny.spec()], pooled, "cpu", None).test_index.numel() == 4
    assert build([tiny.spec()], pooled.without_test(), "cpu", None).test_index.numel() == 0


# ---------------------------------------------------------------------- spaces
@pytest.mark.parametrize("path", sorted(spaces.SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_spaces_fit_the_method_of_their_name(path):
    spec = cell(path.stem, 2 if path.stem == "rme" else None)
    assert spaces.load(path.stem, spec).own_values(spec) is not None, "the space must contain the default values"


def test_every_kind_of_range(tmp_path):
    text = (
        "stage_learning_rate: {log-uniform: [1e-6, 1e-3]}\neps_max: {uniform: [0.05, 0.5]}\n"
        "stage_epochs: {integers: [5, 50]}\nkl_max: {choices: [5, 50, 500]}\n"
    )
    fields = spaces.load(write(tmp_path / "s.yaml", text), cell()).fields
    assert fields == {
        "stage_learning_rate": optuna.distributions.FloatDistribution(1e-6, 1e-3, log=True),
        "eps_max": optuna.distributions.FloatDistribution(0.05, 0.5),
        "stage_epochs": optuna.distributions.IntDistribution(5, 50),
        "kl_max": optuna.distributions.CategoricalDistribution([5.0, 50.0, 500.0]),
    }


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ("kl_max: {uniform: [5, 50]}\neps_maxx: {uniform: [0.1, 0.2]}\n", "rme", r"line 2: eps_maxx: no such field"),
        ("kl_max: {uniform: [5, 50]}\n", "vae", r"line 1: kl_max: VAE does not read it; .* learning_rate"),
        ("variant: {choices: [a, b]}\n", "rme", r"line 1: variant: .* cannot change this field"),
        ("finish_epochs: {integers: [0, 5]}\n", "rme", r"line 1: finish_epochs: the vae that it starts from"),
        ("stage_patience: {integers: [1, 5]}\n", "vae", r"line 1: stage_patience: VAE does not read it"),
        ("finish_epochs: {choices: [0, 2000]}\n", "vae", r"invalid combination .*: finish_epochs=2000"),
        ("seed: {integers: [0, 5]}\n", "rme", r"line 1: seed: .* cannot change this field"),
        ("dim: {choices: [5, 10]}\n", "rme", r"line 1: dim: .* one cell"),
        ("learning_rate: {uniform: [0.1, 0.2]}\n", "rme", r"line 1: learning_rate: the vae that it starts from"),
        ("kl_max: {uniform: [50, 5]}\n", "rme", r"low end must be below"),
        ("kl_max: {uniform: [5]}\n", "rme", r"a low and a high end"),
        ("kl_max: {normal: [5, 6]}\n", "rme", r"'normal' must be one of log-uniform"),
        ("kl_max: [5, 6]\n", "rme", r"line 1: kl_max: \[5, 6\] must be one of"),
        ("kl_max: {log-uniform: [0, 6]}\n", "rme", r"must be above 0"),
        ("kl_max: {uniform: [-1, 6]}\n", "rme", r"kl_max=-1.0: .* greater than or equal to 0"),
        ("kl_max: {uniform: [low, 6]}\n", "rme", r"'low' must be a number"),
        ("stage_epochs: {uniform: [5, 50]}\n", "rme", r"whole numbers: write integers"),
        ("stage_epochs: {choices: [5, 0]}\n", "rme", r"stage_epochs=0"),
        ("eps_max: {uniform: [0.0005, 0.5]}\n", "rme", r"invalid combination .*: eps_min=0.001 must be below"),
        ("kl_max: {uniform: [5, 50]}\nkl_max: {uniform: [5, 50]}\n", "rme", r"line 2, .*duplicate key kl_max"),
        ("kl_max: {uniform: [5, 50\n", "rme", r"line \d, column \d"),
        ("", "rme", r"a search space maps fields"),
    ],
)  # fmt: skip
def test_an_invalid_space_is_refused(tmp_path, text, method, message):
    path = write(tmp_path / "s.yaml", text)
    with pytest.raises(SpaceError, match=message) as raised:
        spaces.load(path, cell(method, 2 if method == "rme" else None))
    assert path in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "optuna", "--space", "rme"], "digits d10 VAE, digits d10 VAE-more, digits d10 RME(2)"),
        (["--search", "optuna", "--only", "method=vae"], "needs --space"),
        (["--search", "optuna", "--space", "none", "--only", "method=vae"], "file not found"),
        (["--samples", "5"], "--samples needs --search"),
        (["--early-stopping", "none"], "--early-stopping needs --search"),
    ],
)
def test_invalid_commands_are_refused_before_anything_starts(arguments, message, tmp_path, monkeypatch, capsys):
    from tune.sweep import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["--grid", "demo", *arguments]) == 2
    assert message.lower() in capsys.readouterr().err.lower()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- Optuna and ASHA, refilled from the storage
@pytest.fixture
def samples(tmp_path) -> Samples:
    space = spaces.load(write(tmp_path / "s.yaml", SPACE), cell())
    return Samples(Storage(tmp_path), [cell(seed=0, stage_epochs=9), cell(seed=1, stage_epochs=9)], space)


def searcher(samples: Samples, stopped=(), stopping: Stopping | None = None) -> SampleSearcher:
    fresh = Samples(samples.storage, samples.runs, samples.space)
    folder = samples.storage.root

    def job(sample) -> Job:
        return Job(str(sample.number), "", tuple(fresh.runs_of(sample)), folder, folder, folder, 1, "cpu", 0.0)

    return SampleSearcher(fresh, job, stopped.__contains__, lambda sample: None, stopping or Stopping(print))


def values_of(config: dict) -> dict:
    """The number and the values of the sample in a worker's configuration."""
    job = Job.from_config(config)
    run = job.runs[0]
    return {"number": int(job.key), "stage_learning_rate": run.stage_learning_rate, "eps_max": run.eps_max}


def finish(search: SampleSearcher, trial_id: str, score: float) -> None:
    search.on_trial_result(trial_id, Outcome(epoch=1, val_elbo=score - 1).to_result())
    search.on_trial_complete(trial_id, Outcome(epoch=9, val_iwae=(score, score), seconds=1.0).to_result())


def score_of(job: dict) -> float:
    return -((math.log10(job["stage_learning_rate"]) + 3) ** 2) - (job["eps_max"] - 0.2) ** 2


def test_a_search_that_is_stopping_adds_no_sample_and_waits_for_none_that_has_ended(samples):
    stopping = Stopping(lambda line: None)
    search = searcher(samples, stopping=stopping)
    values = values_of(search.suggest("0"))
    stopping.status = TERMINATED
    assert search.suggest("1") == search.FINISHED and len(search.samples.all) == 1
    assert not stopping._hurry.is_set()
    search.on_trial_complete("0", Outcome(stopped=True).to_result())
    assert stopping._hurry.is_set()
    assert values_of(searcher(samples).suggest("0")) == values, "a stopped sample is still missing"


def test_a_new_searcher_suggests_the_same_samples(samples):
    """Also past TPE's random start, after every outcome, and if the driver is killed during every sample."""
    endings = {3: "stopped", 5: "diverged"}

    def end(search, number, job):
        trial_id = str(number)
        kind = endings.get(number)
        if kind == "stopped":
            search.on_trial_complete(trial_id, Outcome(epoch=2, val_elbo=-50.0).to_result())
        elif kind == "diverged":
            search.on_trial_complete(trial_id, Outcome(epoch=2, diverged="NaN").to_result())
        else:
            finish(search, trial_id, score_of(job))

    whole = searcher(samples, {"3"})
    undisturbed = []
    for number in range(16):
        job = values_of(whole.suggest(str(number)))
        undisturbed.append(job)
        end(whole, number, job)
    for file in samples.folder.glob("[0-9]*.json"):
        file.unlink()
    for number in range(16):  # killed during every sample
        assert values_of(searcher(samples, {"3"}).suggest(str(number))) == undisturbed[number]
        search = searcher(samples, {"3"})
        assert values_of(search.suggest(str(number))) == undisturbed[number]
        end(search, number, undisturbed[number])
    outcomes = [sample.outcome for sample in Samples(samples.storage, samples.runs, samples.space).all]
    assert (outcomes[3], outcomes[5], outcomes[9]) == (Status.STOPPED, Status.DIVERGED, Status.DONE)


def test_a_failed_sample_is_tried_again_and_a_diverged_one_is_not(samples):
    search = searcher(samples)
    first, second = values_of(search.suggest("0")), values_of(search.suggest("1"))
    search.on_trial_complete("0", error=True)
    search.on_trial_complete("1", Outcome(epoch=1, diverged="no loss is finite").to_result())
    again = searcher(samples)
    assert again.samples.all[0].outcome is Status.FAILED and "worker died" in again.samples.all[0].reason
    assert values_of(again.suggest("2")) == first
    third = values_of(again.suggest("3"))
    assert third["number"] == 2 and third not in (first, second)


def test_a_failed_sample_names_what_its_worker_raised_last(samples):
    search = searcher(samples)
    for trial_id in ("0", "1"):
        search.suggest(trial_id)
        search.on_trial_result(trial_id, Outcome(raised=Failure("OSError: disk full", "Traceback ...")).to_result())
    search.on_trial_result("1", Outcome(epoch=1, val_elbo=0.0).to_result())  # restarted; then its worker dies
    for trial_id in ("0", "1"):
        search.on_trial_complete(trial_id, error=True)
    first, second = search.samples.all
    assert first.reason.startswith("OSError: disk full (see ") and "worker died" in second.reason
    assert (search.samples.training_folder(first) / "error.txt").read_text() == "Traceback ..."


def trials_in_dashboard(samples: Samples) -> list[optuna.trial.FrozenTrial]:
    """The trials of a search's file, as another process reads them."""
    file = samples.folder / "optuna.log"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    (summary,) = optuna.get_all_study_summaries(storage)
    assert samples.runs[0].cell in summary.study_name
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    assert study.direction is optuna.study.StudyDirection.MAXIMIZE
    return study.trials


def test_optuna_s_dashboard_shows_every_sample_while_and_after_it_is_trained(samples):
    search = searcher(samples, {"1"})
    values = [values_of(search.suggest(str(number))) for number in range(5)]
    search.on_trial_result("0", Outcome(epoch=1, val_elbo=-4.0).to_result())
    running = trials_in_dashboard(samples)
    assert [trial.state.name for trial in running] == ["RUNNING"] * 5
    assert running[0].intermediate_values == {1: -4.0}
    for epoch, elbo in ((2, -3.0), (3, -2.5)):
        search.on_trial_result("0", Outcome(epoch=epoch, val_elbo=elbo).to_result())
    search.on_trial_complete("0", Outcome(epoch=9, val_iwae=(-2.0, -1.0), seconds=40.0).to_result())
    search.on_trial_complete("1", Outcome(epoch=2, val_elbo=-50.0).to_result())
    search.on_trial_complete("2", Outcome(epoch=2, diverged="NaN").to_result())
    search.on_trial_complete("3", error=True)
    ended = trials_in_dashboard(samples)
    assert [trial.state.name for trial in ended] == ["COMPLETE", "PRUNED", "COMPLETE", "FAIL", "RUNNING"]
    (samples.folder / "optuna.log.lock").touch()  # as if killed while it wrote
    searcher(samples)
    resumed = trials_in_dashboard(samples)
    assert [trial.state.name for trial in resumed] == ["COMPLETE", "PRUNED", "COMPLETE", "WAITING", "WAITING"]
    for trials in (ended, resumed):
        assert [trial.number for trial in trials] == list(range(5))
        assert [trials[0].value, trials[2].value] == [-1.5, -math.inf]
        assert trials[0].intermediate_values == {1: -4.0, 2: -3.0, 3: -2.5}
        assert trials[1].intermediate_values == {2: -50.0}
        for trial, wanted in zip(trials[:3], values, strict=False):
            assert trial.params == {name: wanted[name] for name in ("stage_learning_rate", "eps_max")}
            assert trial.distributions == samples.space.fields
    lasted = resumed[0].datetime_complete - resumed[0].datetime_start
    assert lasted.total_seconds() == pytest.approx(40, abs=1e-3)


def test_mlflow_s_page_lists_the_samples_of_a_search(samples, tmp_path):
    for number, score in enumerate((-5.0, -3.0)):
        sample = samples.add({"stage_learning_rate": 1e-3, "eps_max": 0.1 + number / 10})
        sample.outcome, sample.val_iwae, sample.curve = Status.DONE, score, [(1, score - 1)]
        samples.note(sample)
    tracker = SearchTracker(blank_database(tmp_path / "mlflow.db"), "demo-search")
    tracker.record_search(samples)
    tags = tracker.client.get_experiment(tracker.experiment_id).tags
    asked = re.findall("`(tags[^`]+)`", tags["mlflow.note.content"])
    found = [len(tracker.client.search_runs([tracker.experiment_id], search)) for search in asked]
    assert found == [1, 2, 0], "the best, those of the search, and those that were stopped"
    view = json.loads(json.loads(tags[f"mlflow.sharedViewState.rme-{samples.key}"])["state"])
    runs = tracker.client.search_runs(
        [tracker.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"]
    )
    assert [run.data.metrics["val/iwae"] for run in runs] == [-3, -5]
    assert {"params.`stage_learning_rate`", "params.`eps_max`"} <= set(view["selectedColumns"])
    tracker.record_search(samples)
    assert tracker.client.get_experiment(tracker.experiment_id).tags == tags


class Trial:
    trial_id = "new"


def note_three(samples) -> None:
    """Add three finished samples, each ten nats above the one before at every epoch."""
    for number, level in enumerate((10.0, 20.0, 30.0)):
        sample = samples.add({"stage_learning_rate": 1e-3, "eps_max": 0.1 + number / 100})
        sample.outcome, sample.val_iwae = Status.DONE, level
        sample.curve = [(epoch, level + epoch) for epoch in range(1, 10)]
        samples.note(sample)


def test_asha_compares_with_samples_of_an_earlier_command(samples):
    note_three(samples)
    halving = halving_of(samples)
    halving.on_trial_add(None, Trial())
    assert halving.on_trial_result(None, Trial(), {"epoch": 1, "val_elbo": 21.0}) == "STOP"
    assert halving.stopped == {"new"}
    halving = halving_of(samples)
    halving.on_trial_add(None, Trial())
    for epoch in (1, 3):
        assert halving.on_trial_result(None, Trial(), {"epoch": epoch, "val_elbo": 40.0}) == "CONTINUE"
    # a sample that reaches the end is not stopped there
    assert halving.on_trial_result(None, Trial(), {"epoch": 9, "val_elbo": -100.0}) == "CONTINUE"


def test_without_early_stopping_nothing_is_stopped_and_it_is_another_search(samples):
    """A sample far below the others is still trained to its end."""
    patient = Samples(samples.storage, samples.runs, samples.space, early_stopping=False)
    assert patient.key != samples.key
    note_three(patient)
    scheduler = halving_of(patient)
    scheduler.on_trial_add(None, Trial())
    assert scheduler.on_trial_result(None, Trial(), {"epoch": 1, "val_elbo": -100.0}) == "CONTINUE"
    assert samples.all == [] and len(patient.all) == 3


@pytest.mark.parametrize(("method", "order", "fields"), [
    ("vae", None, {"finish_epochs": 0, "finish_learning_rate": 1e-6, "patience": 7}),
    ("rme", 2, {"stage_epochs": 2000, "stage_learning_rate": 1e-6, "stage_patience": 7}),
    ("iaf", 1, {"stage_learning_rate": 5e-4}),
    ("svi", 10, {"options.svi_rate": None}),
])  # fmt: skip
def test_every_training_s_length_and_rate_can_be_searched(tmp_path, method, order, fields):
    """A search begins with the grid's values, or the method's defaults if the grid sets none."""
    spec = cell(method, order, patience=7)
    fields = {name: value or spec.method_class.options.get("svi_rate", 0) for name, value in fields.items()}
    text = "".join(f"{name}: {{choices: [{value!r}]}}\n" for name, value in fields.items())
    assert spaces.load(write(tmp_path / "s.yaml", text), spec).own_values(spec) == fields


def test_another_search_has_other_samples(samples, tmp_path):
    samples.add({"stage_learning_rate": 1e-3, "eps_max": 0.1})
    other = [spec.model_copy(update={"kl_max": 7.0}) for spec in samples.runs]
    assert Samples(samples.storage, other, samples.space).all == []
    # the runs' own value of a searched field does not matter
    same = [spec.model_copy(update={"eps_max": 0.3}) for spec in samples.runs]
    assert len(Samples(samples.storage, same, samples.space).all) == 1
    assert Samples(samples.storage, samples.runs[:1], samples.space).all == []


def test_the_printed_command_uses_the_grid_s_seeds_instead_of_the_search_s():
    asked = ["--grid", "demo", "--only", "method=rme", "--only", "seed=0", "--set", "seed=100", "--set", "kl_max=5"]
    printed = printed_command(asked)
    grid = ["python", "tune/sweep.py", "--grid", "demo", "--only", "method=rme"]
    values = ["--set", "kl_max=20.0", "--set", "stage_epochs=3"]
    assert printed == [*grid, *values, "--experiment", "demo-searched"], "the grid's may hold other settings"


def test_the_printed_command_repeats_typed_options_with_default_values(monkeypatch):
    """Another shell may have another $MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    places = ["--storage", "storage", "--tracking-uri", "sqlite:///mlflow.db", "--cpus-per-trial", "1"]
    printed = printed_command(["--grid", "demo", *places, "--search", "optuna", "--space", "rme", "--samples", "3"])
    values = ["--set", "kl_max=20.0", "--set", "stage_epochs=3"]
    assert printed == ["python", "tune/sweep.py", "--grid", "demo", *values, *places, "--experiment", "demo-searched"]


def printed_command(asked: list[str]) -> list[str]:
    options = options_of(parse(asked))
    return shlex.split(command_line(options, {"kl_max": 20.0, "stage_epochs": 3}))


def test_every_combination_of_a_small_space_is_tried_once(samples, tmp_path):
    text = "stage_learning_rate: {choices: [0.001, 0.002]}\nkl_max: {choices: [5, 20, 100]}\n"
    (tmp_path / "choices.yaml").write_text(text)
    choices = spaces.load(str(tmp_path / "choices.yaml"), samples.runs[0])
    whole = Samples(samples.storage, samples.runs, choices)
    whole.add({"stage_learning_rate": 0.002, "kl_max": 20.0})
    assert _wanted(whole, 5) == 5 and len(whole.all) == 1, "Optuna samples a larger space"
    assert _wanted(whole, 20) == 6 == _wanted(whole, 6)
    tried = [(sample.values["stage_learning_rate"], sample.values["kl_max"]) for sample in whole.all]
    assert sorted(tried) == [(rate, kl) for rate in (0.001, 0.002) for kl in (5.0, 20.0, 100.0)]
    search = searcher(whole)
    assert [search.suggest(str(i)) is not None for i in range(6)] == [True] * 6
    assert len(search.samples.all) == 6
    assert samples.space.combinations is None


def test_sampled_values_make_runs(samples):
    sample = samples.add({"stage_learning_rate": 1e-3, "eps_max": 0.1})
    assert [(run.seed, run.eps_max, run.stage_learning_rate) for run in samples.runs_of(sample)] == [
        (0, 0.1, 1e-3),
        (1, 0.1, 1e-3),
    ]
    with pytest.raises(SpecError):
        samples.space.apply(samples.runs[0], {"eps_max": 2.0})
