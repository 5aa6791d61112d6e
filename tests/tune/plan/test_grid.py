"""Grids: YAML to runs, runs to trials, and errors."""

from __future__ import annotations

import json
from functools import cache

import pytest

from rme import methods
from rme.config import RunSpec
from tests.databases import blank_database
from tests.sweeping import SMALL, write_grid
from tune import sweep
from tune.plan import grid as grids
from tune.plan.grid import GridError, load
from tune.plan.trials import trials, with_parents

loaded = cache(load)  # grids are immutable


def spec(method="vae", order=None, seed=0, **fields):
    return RunSpec.of({"dataset": "digits", **SMALL, "method": method, "order": order, "seed": seed, **fields})


def test_paper_grid_has_the_paper_s_cells(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tune.cost.hours.hours", lambda trials: {("MNIST", "VAE"): 1.0})
    assert sweep.main(["--grid", "paper", "--plan", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    # 29 rows x 4 dims x 5 data sets, and 13 rows x 2 x 2; ten runs each, three trainings a run, two runs a trial
    paper = 29 * 4 * 5 + 13 * 2 * 2
    # the control, with each of RME's decoders
    control = 4 * 5 + 2 * 2
    cells = paper + control
    assert (plan["cells"], plan["paper_cells"], plan["control_cells"]) == (cells, paper, control) == (656, 632, 24)
    assert plan["runs"] == 10 * cells
    assert plan["trainings"] == 30 * cells
    assert plan["trials"] == 5 * cells == 3280
    assert list(tmp_path.iterdir()) == []  # a plan writes nothing


@pytest.mark.parametrize(
    ("only", "cells"), [('variant="low, long"', 1), ("variant=high", 1), ('variant=high, "low, long"', 2)]
)
def test_quotes_enclose_a_value_with_a_comma(tmp_path, monkeypatch, capsys, only, cells):
    monkeypatch.setattr("tune.cost.hours.hours", lambda trials: {})
    rows = [{"method": "vae", "epochs": 3 + i, "variant": name} for i, name in enumerate(("low, long", "high", "low"))]
    path = write_grid(tmp_path / "g.yaml", rows, dataset="digits")
    assert (
        sweep.main(["--grid", str(path), "--plan", "--json", "--only", only, "--tracking-uri", "sqlite:///none"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["cells"] == cells


def test_paper_grid_has_the_paper_s_settings():
    for run in loaded("paper").runs:
        assert (run.epochs, run.batch_size, run.restarts, run.iwae_samples) == (2000, 128, 3, 100)
        assert (run.learning_rate, run.kl_max, run.finish_epochs, run.patience) == (5e-4, 500.0, 0, None)
        # the rate in the paper's listing, for RME, BVI and the control
        low = run.method in ("rme", "bvi-er1", "bvi-er2", "vae-more")
        assert (run.rate, run.training_epochs) == (1e-6 if low else 5e-4, 2000)


@pytest.mark.parametrize("name", sorted(path.stem for path in grids.GRIDS.glob("*.yaml")))
def test_every_grid_loads_under_its_own_name(name):
    grid = loaded(name)
    assert grid.name == name and grid.description
    assert len({run.key for run in grid.runs}) == len(grid.runs)


def test_table_5_is_a_part_of_the_paper_s_grid():
    """Every run with a fully connected decoder, and the same run with the convolutional one if its method has both."""
    paper = loaded("paper").runs
    compared = {(run.method, run.order, run.dataset, run.dim, run.seed) for run in paper if run.decoder == "fc"}
    wanted = {run.key for run in paper if (run.method, run.order, run.dataset, run.dim, run.seed) in compared}
    assert {run.key for run in loaded("table5").runs} == wanted and len(wanted) == 960


def test_smoke_has_every_method_with_every_decoder():
    present = {(run.method, run.decoder) for run in loaded("smoke").runs}
    assert present == {(name, decoder) for name in methods.names() for decoder in methods.get(name).decoders}


@pytest.mark.parametrize("name", sorted(path.stem for path in grids.GRIDS.glob("*.yaml") if path.stem != "timing"))
def test_every_grid_has_the_control_of_its_rme(name):
    """VAE-more has a stage from the same VAE with the same rate and epochs as each RME."""

    def stages(method: str) -> set:
        return {
            (run.parent.key, run.rate, run.training_epochs, run.own_patience, run.keep)
            for run in loaded(name).runs
            if run.method == method
        }

    of_rme = stages("rme")
    assert of_rme and of_rme <= stages("vae-more")


def test_in_the_grid_equal_every_method_has_the_same_learning_rates():
    runs = loaded("equal").runs
    assert {run.method for run in runs} == set(methods.names())
    lasts = {}
    for run in runs:
        parent = run.parent
        epochs = [parent.rate_of(e + 1) for e in range(parent.training_epochs)] if parent is not None else []
        epochs += [run.rate_of(e + 1) for e in range(run.training_epochs)]
        lasts.setdefault(tuple(epochs), set()).add(run.method_label)
    first, all_of_them = sorted(lasts, key=len)
    assert lasts[first] == {"VAE", "SVI(50)"}, "the starting VAE, and the method without training of its own"
    assert all_of_them == first + (2e-5,) * 8 and "VAE, finish" in lasts[all_of_them]
    assert {(run.dataset, run.dim) for run in runs} == {(d, p) for d in ("mnist", "omniglot") for p in (10, 50)}


def test_a_row_stands_for_every_combination(tmp_path):
    rows = [{"method": "vae"}, {"method": "RME", "order": [2, "4-5"], "seed": 7}]
    runs = load(str(write_grid(tmp_path / "g.yaml", rows, dataset="digits", dim=[2, 3], seed="0-2"))).runs
    found = [(run.method, run.order, run.dim, run.seed) for run in runs]
    vae = [("vae", None, dim, seed) for dim in (2, 3) for seed in (0, 1, 2)]
    assert sorted(found, key=str) == sorted(vae + [("rme", o, d, 7) for o in (2, 4, 5) for d in (2, 3)], key=str)


def test_only_and_set(tmp_path):
    path = str(
        write_grid(tmp_path / "g.yaml", [{"method": ["vae", "rme"], "order": None}], dataset="digits", seed="0-3")
    )
    grid = load(path, only={"method": ["VAE"], "seed": ["1-2"]}, overrides={"epochs": 9, "kl_max": "7"})
    assert [(run.method, run.seed, run.epochs, run.kl_max) for run in grid.runs] == [("vae", 1, 9, 7), ("vae", 2, 9, 7)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rows:\n  - {method: vae,\n  - x", ["line 3", "column"]),
        ("rows: 3", ["rows"]),
        ("rows: []", ["rows"]),
        ("row:\n  - {method: vae}", ["rows"]),
        ("rows:\n  - {method: vae, dataset: digits, dim: 2, epoch: 3}", ["row 1", "epoch", "epochs"]),
        ("rows:\n  - {dataset: digits, dim: 2}", ["row 1", "method"]),
        ("rows:\n  - vae", ["row 1", "vae"]),
        ("rows:\n  - {method: rme, order: 9, dataset: digits, dim: 2}", ["order=9", "2, 3, 4, 5"]),
        ("rows:\n  - {method: vae, dataset: digits, dim: 0}", ["dim=0"]),
        ("name: g\nrows:\n  - {method: va\x07e}", ["line 3, column 16"]),
        ("default: {}\nrows:\n  - {method: vae}", ["default", "defaults"]),
    ],
)
def test_an_invalid_grid_is_refused(tmp_path, text, named):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(GridError) as error:
        load(str(path))
    for part in (str(path), *named):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--grid", "demos"], ["demos", "demo", "paper"]),
        (["--grid", "missing.yaml"], ["missing.yaml"]),
        (["--grid", "demo", "--only", "method=sae"], ["sae", "vae", "rme"]),
        (["--grid", "demo", "--only", "methods=vae"], ["methods", "method"]),
        (["--grid", "demo", "--only", "method"], ["--only method", "FIELD=VALUE"]),
        (["--grid", "demo", "--set", "epoch=3"], ["epoch=3", "epochs"]),
        (["--grid", "demo", "--set", "epochs=many"], ["--set epochs=many", "epochs='many'"]),
        (["--grid", "demo", "--set", "learning_rate=5"], ["learning_rate=5"]),
        (["--grid", "demo", "--dataset", "nowhere.npz"], ["nowhere.npz"]),
        (["--grid", "demo", "--storage", "/proc/none"], ["/proc/none"]),
        (["--grid", "demo", "--storage", "s3://bucket"], ["s3://bucket"]),
        (["--grid", "demo", "--tracking-uri", "nonsense://x"], ["nonsense://x"]),
        (["--grid", "demo", "--set", "dataset=mnist", "--data-dir", "empty"], ["MNIST"]),
        (["--grid", "demo", "--tracking-uri", "http://127.0.0.1:9"], ["http://127.0.0.1:9", "does not answer"]),
        (["--grid", "demo", "--tracking-uri", "sqlite:////proc/none/m.db"], ["sqlite:////proc/none/m.db"]),
        (["--grid", "demo", "--json"], ["--plan"]),
        (["--grid", "demo", "--dataset", "digits", "--set", "dataset=mnist"], ["--dataset digits", "dataset=mnist"]),
        (["--grid", "demo", "--cpus-per-trial", "4096"], ["--cpus-per-trial 4096", "this machine has"]),
        (["--grid", "demo", "--address", "127.0.0.1:1"], ["127.0.0.1:1"]),
    ],
)
def test_a_bad_command_line_is_refused_in_one_line(tmp_path, monkeypatch, capsys, arguments, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.mnist.MNIST.mirrors", [])  # no network in a test
    tracking = [] if "--tracking-uri" in arguments else ["--tracking-uri", blank_database(tmp_path / "m.db")]
    assert sweep.main([*arguments, *tracking]) == 2
    message = capsys.readouterr().err
    assert message.startswith("sweep: ") and message.count("\n") <= 2
    for part in named:
        assert part in message


@pytest.mark.parametrize("name", ["a/b", "..", ""])
def test_an_experiment_s_name_must_be_plain(name, capsys):
    with pytest.raises(SystemExit) as ended:
        sweep.main(["--grid", "demo", "--experiment", name])
    assert ended.value.code == 2 and "plain name" in capsys.readouterr().err


def test_a_missing_method_makes_absent_cells_and_is_refused_by_a_sweep(tmp_path, monkeypatch, capsys):
    rows = [{"method": "vae"}, {"method": "not-yet", "order": [1, 2]}]
    path = str(write_grid(tmp_path / "g.yaml", rows, dataset="digits", seed="0-4"))
    grid = load(path)
    assert len(grid.runs) == 5
    assert [(cell.values["order"], cell.seeds) for cell in grid.absent] == [(1, 5), (2, 5)]
    monkeypatch.chdir(tmp_path)
    assert sweep.main(["--grid", path]) == 2
    message = capsys.readouterr().err
    assert "not-yet" in message and "2 cells" in message and "--only method=vae" in message


def test_trials_group_a_cell_s_seeds():
    runs = [spec(seed=s) for s in (3, 0, 2, 1, 4)] + [spec("rme", 2, seed=s) for s in (0, 1)]
    found = [[(run.method, run.seed) for run in trial.runs] for trial in trials(runs, 2)]
    assert found == [[("vae", 0), ("vae", 1)], [("vae", 2), ("vae", 3)], [("vae", 4)], [("rme", 0), ("rme", 1)]]
    # trial keys do not depend on the order of the runs
    assert {t.key for t in trials(runs, 2)} == {t.key for t in trials(runs[::-1], 2)}


def test_parents_come_first_and_once():
    runs = with_parents([spec("rme", 3), spec("rme", 2), spec(), spec("rme", 2, seed=1)])
    found = [(run.method, run.order, run.seed) for run in runs]
    assert found == [("vae", None, 0), ("rme", 3, 0), ("rme", 2, 0), ("vae", None, 1), ("rme", 2, 1)]
