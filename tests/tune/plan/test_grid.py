"""Grids: YAML to runs, runs to trials, and errors."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache

import pytest

from rme import methods
from rme.config import RunSpec
from tests.databases import blank_database
from tests.sweeping import SMALL, write_grid
from tests.tiny import write_npz
from tune import sweep
from tune.cost.hours import Hours
from tune.plan.grid import GridError, load
from tune.plan.grid_files import GRIDS
from tune.plan.grid_options import check_whole, chosen_grid
from tune.plan.trials import trials, with_parents

loaded = cache(load)  # grids are immutable


def spec(method="vae", order=None, seed=0, **fields):
    return RunSpec.of({"dataset": "digits", **SMALL, "method": method, "order": order, "seed": seed, **fields})


def test_paper_grid_has_the_paper_s_cells(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tune.cost.hours.trial_hours", lambda arrays, device: [Hours(1.0, 1.0)] * len(arrays))
    assert sweep.main(["--grid", "paper", "--plan", "--json"]) == 2
    plan = json.loads(capsys.readouterr().out)
    assert "chardata.mat" in plan["refused"]  # of OMNIGLOT, which no program can download
    assert plan["hours"] == plan["trials"]
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
    monkeypatch.setattr("tune.cost.hours.trial_hours", lambda arrays, device: [Hours(0.0, 0.0)] * len(arrays))
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


@pytest.mark.parametrize("name", sorted(path.stem for path in GRIDS.glob("*.yaml")))
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


@pytest.mark.parametrize("name", sorted(path.stem for path in GRIDS.glob("*.yaml") if path.stem != "timing"))
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
    message = re.sub(r"^(\d+:\d\d:\d\d .*\n)*", "", message)  # what was being done
    assert message.startswith("sweep: ") and message.count("\n") <= 2
    for part in named:
        assert part in message


# ---------------------------------------------------------------------- several values of --set
DEMO = [("vae", None), ("vae-more", None), ("rme", 2), ("rme", 3)]
"""Methods and orders of the grid demo, which has dim 10, the digits and seeds 0-5."""


@pytest.mark.parametrize(
    ("set_", "only", "rows", "datasets", "dims", "seeds"),
    [
        (["seed=0-2"], [], DEMO, ["digits"], [10], {0, 1, 2}),
        (["seed=0-2,7,1"], [], DEMO, ["digits"], [10], {0, 1, 2, 7}),
        (["seed=[0, 2-3]"], [], DEMO, ["digits"], [10], {0, 2, 3}),
        (['seed="0-1,7"'], [], DEMO, ["digits"], [10], {0, 1, 7}),
        (["dim=10,50"], [], DEMO, ["digits"], [10, 50], set(range(6))),
        (["dim=2-3", "seed=4"], [], DEMO, ["digits"], [2, 3], {4}),
        (["dataset=mnist,omniglot"], [], DEMO, ["mnist", "omniglot"], [10], set(range(6))),
        (["dataset=mnist,digits"], ["dataset=mnist"], DEMO, ["mnist"], [10], set(range(6))),
        (["order=4-5"], ["method=rme"], [("rme", 4), ("rme", 5)], ["digits"], [10], set(range(6))),
        (["method=vae,vae-more", "order=null"], [], DEMO[:2], ["digits"], [10], set(range(6))),
        (["order=none"], ["method=vae"], DEMO[:1], ["digits"], [10], set(range(6))),
    ],
)
def test_set_replaces_an_axis_of_every_row(set_, only, rows, datasets, dims, seeds):
    grid = chosen_grid("demo", only, set_)
    cells = {(*row, dataset, dim) for row in rows for dataset in datasets for dim in dims}
    assert {(run.method, run.order, run.dataset, run.dim) for run in grid.runs} == cells
    assert {run.seed for run in grid.runs} == seeds and len(grid.runs) == len(cells) * len(seeds)


def test_the_words_of_a_grid_can_be_set():
    grid = chosen_grid("demo", [], ["method=rme,iaf,vae", "order=lowest", "seed=0"])
    assert [(run.method, run.order) for run in grid.runs] == [("rme", 2), ("iaf", 1), ("vae", None)]
    both = chosen_grid("demo", ["method=vae"], ["decoder=all", "seed=0"])
    assert [run.decoder for run in both.runs] == list(methods.get("vae").decoders)


def test_a_method_s_own_option_can_have_several_values(tmp_path):
    """Each makes another setting, so in one cell they are in conflict; a conflict shows that both were set."""
    path = str(write_grid(tmp_path / "g.yaml", [{"method": "sa", "order": 1}], dataset="digits"))
    (name, default), *_ = methods.get("sa").options.items()
    (run,) = chosen_grid(path, [], [f"options.{name}={default / 2}"]).runs
    assert run.options == {name: default / 2}
    with pytest.raises(GridError, match=rf"^--set options\.{name}=.*two settings \(options\.{name} "):
        chosen_grid(path, [], [f"options.{name}={default / 2},{default}"])


def test_the_option_for_data_sets_takes_several_too():
    assert {run.dataset for run in chosen_grid("demo", dataset="mnist,svhn").runs} == {"mnist", "svhn"}


def test_quotes_enclose_a_data_set_s_path_with_a_comma(tmp_path):
    path = write_npz(tmp_path / "a,b.npz")
    assert {run.dataset for run in chosen_grid("demo", [], [f'dataset="{path}"', "seed=0"]).runs} == {str(path)}
    with pytest.raises(GridError, match="a path with a comma is written in double quotes"):
        chosen_grid("demo", [], ["dataset=a,b.npz"])


@pytest.mark.parametrize("text", ["kl 20, long", '"kl 20, long"', "'kl 20, long'"])
def test_a_variant_s_name_may_have_a_comma(text):
    assert {run.variant for run in chosen_grid("demo", [], [f"variant={text}"]).runs} == {"kl 20, long"}


def test_none_takes_a_variant_away():
    runs = chosen_grid("mnist-d10", ["stage_epochs=96"], ["variant=none"]).runs
    assert {(run.method, run.variant, run.training_epochs) for run in runs} == {("vae-more", None, 96)}


# ---------------------------------------------------------------------- errors of --only and --set
@pytest.mark.parametrize(
    ("grid", "only", "set_", "line"),
    [
        ("demo", ["seed=0-99"], [], "--only seed=6-99: the grid has seed 0-5"),
        ("demo", ["seed=4-7,9"], [], "--only seed=6,7,9: the grid has seed 0-5"),
        ("mnist-d10-rivals", ["seed=2"], [], "--only seed=2: the grid has seed 0, 1, 7-11"),
        ("paper", ["dim=7"], [], "--only dim=7: the grid has dim 10, 20, 50, 100"),
        ("demo", ["seed=5-0"], [], "--only seed=5-0: the range is empty; write 0-5"),
        ("demo", [], ["seed=5-0"], "--set seed=5-0: the range is empty; write 0-5"),
        ("demo", ["seed=5"], ["seed=0-3"], "--only seed=5: with --set seed=0-3 the grid has seed 0-3"),
        ("paper", ["method=rme", "order=8"], [], "--only order=8: with --only method=rme it has order 2-5"),
        ("demo", ["method=vae", "order=2"], [], "--only order=2: with --only method=vae it has order none"),
        ("demo", ["method=rmee"], [], "--only method=rmee: the grid has method vae, vae-more, rme; did you mean rme?"),
        ("mnist-d10", ["variant=serched"], [], 'none, last epoch, 2e-5, 5e-4, searched, 3.9e-6, "2e-5, RME(5)'),
        ("demo", ["methd=vae"], [], "--only methd=vae: no such field; did you mean method?"),
        ("demo", [], ["epoch=3"], "--set epoch=3: no such field; did you mean epochs?"),
        ("demo", [], ["options.=3"], "--set options.=3: no such field"),
        ("demo", [], ["method=rne"], "--set method=rne: unknown method 'rne'; did you mean rme? valid values are bvi"),
        ("demo", [], ["dataset=digits,mnst"], "--set dataset=digits,mnst: unknown data set 'mnst'; did you mean mnist"),
        ("demo", [], ["keep=bets"], "keep='bets': did you mean best? valid values are best, last"),
        ("demo", [], ["dim="], "--set dim=: must be FIELD=VALUE or FIELD=A,B"),
        ("demo", [], ["dim"], "--set dim: must be FIELD=VALUE or FIELD=A,B"),
        ("demo", [], ["dim=[]"], "--set dim=[]: the list is empty"),
        ("demo", [], ["dim=2", "dim=3"], "together they are --set dim=2,3"),
        ("demo", [], ["epochs=2", "epochs=3"], "epochs is given twice, first as 2; give it once"),
        ("demo", [], ["seed=0-2000000"], "--set seed=0-2000000: a range has at most 1,000,000 numbers"),
        ("demo", [], ["variant=[a, b]"], "--set variant=[a, b]: digits d10 VAE, a and digits d10 VAE, b"),
        ("demo.yaml", [], [], "--grid demo.yaml: file not found; did you mean demo?"),
        ("dmeo", [], [], "--grid dmeo: no such grid; did you mean demo? valid values are demo, equal"),
    ],
)
def test_an_error_names_the_option_and_what_is_valid(grid, only, set_, line):
    with pytest.raises(GridError) as error:
        chosen_grid(grid, only, set_)
    assert line in str(error.value) and str(error.value).startswith("--") and "\n" not in str(error.value)


def test_only_compares_numbers_as_numbers():
    """2.0e-5 in the grid."""
    runs = chosen_grid("mnist-d10", ["stage_learning_rate=0.00002", "method=rme"]).runs
    assert runs == chosen_grid("mnist-d10", ["stage_learning_rate=2e-5", "method=rme"]).runs
    assert {run.rate for run in runs} == {2e-5}


@pytest.mark.parametrize(("set_", "named"), [
    ("epochs=5,6", ["epochs 5 and 6", "--experiment"]),
    ("learning_rate=1e-3,5e-4", ["learning_rate 0.001 and 0.0005"]),
    ("kl_max=5,20", ["RME(2)", "kl_max 5.0 and 20.0"]),
])  # fmt: skip
def test_two_settings_of_one_cell_are_the_option_s_fault(set_, named):
    with pytest.raises(GridError) as error:
        chosen_grid("demo", [], [set_])
    assert str(error.value).startswith(f"--set {set_}: ") and all(part in str(error.value) for part in named)
    assert ".yaml" not in str(error.value)


def advised(error: GridError) -> list[str]:
    """The values of the `--only` that an error's text ends with or contains."""
    words = shlex.split(re.search(r"--only .*?(?= keeps|, remove|$)", str(error))[0])  # type: ignore[index]
    return [word for word in words if word != "--only"]


@pytest.mark.parametrize(("grid", "set_", "labels"), [
    ("demo", ["order=2"], {"RME(2)"}),
    ("demo", ["order=4-5"], {"RME(4)", "RME(5)"}),
    ("paper", ["order=1", "seed=0"], {"SA(1)", "IAF(1)", "HF(1)", "VLAE(1)"}),
    ("mnist-d10", ["stage_learning_rate=2e-5"], {"VAE-more, 2e-5", "RME(2), 2e-5", "RME(5), 2e-5"}),
])  # fmt: skip
def test_the_advised_only_helps(grid, set_, labels):
    with pytest.raises(GridError) as error:
        chosen_grid(grid, [], set_)
    assert {run.method_label for run in chosen_grid(grid, advised(error.value), set_).runs} == labels


def test_nothing_is_advised_where_no_method_can_have_it():
    with pytest.raises(GridError) as error:
        chosen_grid("demo", [], ["order=2,9"])
    assert str(error.value).startswith("--set order=2,9 ") and "--only" not in str(error.value)


def test_a_mistake_in_the_grid_s_file_is_said_to_be_there(tmp_path):
    """Also with an `--only` and a `--set` of other fields."""
    path = str(write_grid(tmp_path / "g.yaml", [{"method": "vae", "seed": "5-0"}], dataset="digits"))
    with pytest.raises(GridError, match=f"^{re.escape(path)}, row 1: seed=5-0: the range is empty; write 0-5$"):
        chosen_grid(path, ["seed=0-3"], ["epochs=3"])


def test_cells_that_cannot_be_run_are_left_out_by_the_advised_only(tmp_path):
    """With the data set's path as the grid writes it, and a comma in it."""
    spots = write_npz(tmp_path / "a,b.npz")
    rows = [{"method": ["vae", "not-yet"], "dataset": [str(spots), "not-a-set"]}]
    path = str(write_grid(tmp_path / "g.yaml", rows))
    with pytest.raises(GridError, match=r"\(1 cell\); unknown method 'not-yet'.*\(2 cells\)") as error:
        check_whole(chosen_grid(path))
    grid = chosen_grid(path, advised(error.value))
    check_whole(grid)
    assert [(run.method, run.dataset) for run in grid.runs] == [("vae", str(spots))]


def test_no_only_is_advised_where_no_cell_can_be_run(tmp_path):
    path = str(write_grid(tmp_path / "g.yaml", [{"method": "not-yet"}], dataset="digits"))
    with pytest.raises(GridError) as error:
        check_whole(chosen_grid(path))
    assert "--only" not in str(error.value)


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
