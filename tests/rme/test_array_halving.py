"""Arrays that do not fit into memory are trained in parts, with the same results for each member."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rme
from rme.array_halving import NOTE, OutOfMemory, is_out_of_memory, parts, state_of_members
from rme.checkpoint import Checkpoints
from rme.engine import all_members
from rme.fitting import train_runs
from rme.result import Result
from rme.training import build, identity
from tests import ROOT
from tests.tiny import write_npz

CPU = torch.device("cpu")


@pytest.fixture
def runs(small):
    """Two runs of three restarts in float64, and the models that they start from."""

    def make(method="vae", order=None, **fields):
        settings = {"precision": "float64", "restarts": 3, "epochs": 2, "batch_size": 32, **fields}
        specs = [small.spec(method, order, seed=seed, **settings) for seed in (0, 1)]
        parents = [small.models(s.parent, small.images) for s in specs] if specs[0].parent is not None else None
        return specs, parents

    return make


def smaller(folder: Path, members: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / NOTE).write_text(json.dumps({"members": members, "reason": "a test"}))
    return folder


def assert_same(ours: dict[str, Result], theirs: dict[str, Result]) -> None:
    assert ours.keys() == theirs.keys()
    for key, result in ours.items():
        other = theirs[key]
        assert isinstance(result, Result) and isinstance(other, Result)
        assert (result.chosen, result.updates) == (other.chosen, other.updates)
        for name in ("val_iwae", "val_elbo", "test_iwae", "test_elbo", "losses", "history_elbo"):
            torch.testing.assert_close(
                getattr(result, name), getattr(other, name), rtol=1e-11, atol=1e-11, equal_nan=True, msg=name
            )
        for mine, its in zip(result.models, other.models, strict=True):
            assert mine.keys() == its.keys()
            for name in mine:
                torch.testing.assert_close(mine[name], its[name], rtol=1e-10, atol=1e-12)
        assert len(result.finished_at) == len(other.finished_at)


@pytest.mark.parametrize("members", range(1, 14))
def test_parts_are_halves_of_halves(members):
    larger = {0: members}
    for limit in range(members, 0, -1):
        found = parts(range(members), limit)
        assert [i for part in found for i in part] == list(range(members))
        assert max(map(len, found)) <= limit
        for part in found:  # each is within a part for the previous, larger limit
            assert any(start <= part[0] and part[-1] < start + count for start, count in larger.items())
        larger = {part[0]: len(part) for part in found}


@pytest.mark.parametrize(
    ("method", "order", "limits"), [("vae", None, [4, 2, 1]), ("rme", 2, [2]), ("sa", 1, [1])], ids=["vae", "rme", "sa"]
)
def test_members_have_the_same_results_in_smaller_arrays(runs, small, tmp_path, method, order, limits):
    specs, parents = runs(method, order)
    whole = train_runs(specs, small.images, CPU, parents)
    for limit in limits:
        sizes = []
        folder = smaller(tmp_path / str(limit), limit)
        in_parts = train_runs(
            specs, small.images, CPU, parents, folder, lambda engine, sizes=sizes: sizes.append(len(engine.members))
        )
        assert max(sizes) <= limit
        assert_same(in_parts, whole)


def test_epochs_of_the_larger_array_are_not_repeated(runs, small, tmp_path, monkeypatch):
    """Memory runs out in the third epoch, and in the fourth again in one half."""
    monkeypatch.setattr("rme.training.CHECKPOINT_SHARE", 1e9)  # a checkpoint after each epoch
    specs, parents = runs("rme", 2, stage_epochs=5)
    whole = train_runs(specs, small.images, CPU, parents)
    seen: list[tuple[int, int, int]] = []

    def strained(engine):
        first = all_members(specs).index(engine.members[0])
        seen.append((len(engine.members), first, engine.epoch))
        if (len(engine.members), engine.epoch) in ((6, 3), (3, 4)):
            raise MemoryError("none left")

    lines: list[str] = []
    found = train_runs(specs, small.images, CPU, parents, tmp_path, strained, lines.append)
    assert_same(found, whole)
    assert "continuing with 3 of 6 members at a time (none left)" in lines[0] and "2 of 6" in lines[1]
    assert json.loads((tmp_path / NOTE).read_text()) == {"members": 2, "reason": "none left"}
    # each member trains each epoch once, except the epoch in which memory ran out
    assert seen[:4] == [(6, 0, 1), (6, 0, 2), (6, 0, 3), (3, 0, 4)]
    assert seen[4:] == [(2, 0, 5), (1, 2, 5), (2, 3, 4), (2, 3, 5), (1, 5, 4), (1, 5, 5)]
    # a restarted worker uses the smaller size, and finds all epochs done
    seen.clear()
    assert_same(train_runs(specs, small.images, CPU, parents, tmp_path, strained, lines.append), whole)
    assert seen == []


def test_fit_trains_a_run_that_does_not_fit_into_memory_in_parts(small, tmp_path, monkeypatch):
    spec = small.spec(dataset=str(write_npz(tmp_path / "spots.npz", train=20)), restarts=2, precision="float64")
    whole = rme.fit(spec)

    def strained(engine):
        if len(engine.members) == 2:
            raise MemoryError("none left")

    monkeypatch.setattr("rme.hooks.on_epoch", lambda: strained)
    assert_same({"": rme.fit(spec)}, {"": whole})


def test_a_state_cut_into_members_equals_a_smaller_array_s(runs, small):
    """Compared entry by entry, so that new entries of an engine's state cannot be forgotten."""
    specs, _ = runs()
    whole, part = build(specs, small.images, CPU, None), build(specs, small.images, CPU, None, range(2, 4))
    for engine in (whole, part):
        engine.train_epoch()
        engine.validate()
    cut, own = state_of_members(whole.state(), range(2, 4)), part.state()
    assert cut.keys() == own.keys()
    for name in own.keys() - {"history.seconds", "history.finished_at"}:
        torch.testing.assert_close(cut[name], own[name], rtol=1e-11, atol=1e-12, msg=name)
    with pytest.raises(KeyError, match=r"unheard\.of"):
        state_of_members({**whole.state(), "unheard.of": torch.zeros(6)}, range(2, 4))


def test_checkpoints_of_another_training_are_not_used_for_parts(runs, small, tmp_path):
    specs, _ = runs()
    others = [spec.model_copy(update={"seed": spec.seed + 7}) for spec in specs]
    train_runs(others, small.images, CPU, None, tmp_path)
    epochs = []
    train_runs(specs, small.images, CPU, None, smaller(tmp_path, 3), lambda engine: epochs.append(engine.epoch))
    assert epochs == [1, 2] * 2
    assert Checkpoints(tmp_path / "members-0-2").newest() is not None


def test_a_part_s_identity_differs_from_the_whole_array_s(runs, small):
    specs, _ = runs()
    whole, part, rest = (identity(build(specs, small.images, CPU, None, m)) for m in (None, range(2), range(2, 6)))
    assert whole == {"runs": [spec.key for spec in specs]}
    assert whole != part != rest != whole


def test_a_checkpoint_that_cannot_be_cut_is_not_used(runs, small, tmp_path, caplog):
    specs, _ = runs()
    engine = build(specs, small.images, CPU, None)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {**engine.state(), "unheard.of": torch.zeros(6)}, identity(engine))
    epochs = []
    train_runs(specs, small.images, CPU, None, smaller(tmp_path, 3), lambda engine: epochs.append(engine.epoch))
    assert epochs == [1, 2] * 2 and "starting from the beginning" in caplog.text and "unheard.of" in caplog.text


def test_an_out_of_memory_error_without_a_message_is_named_by_its_type(runs, small):
    """Such as Python's own MemoryError."""

    def strained(engine):
        if len(engine.members) == 6:
            raise MemoryError

    lines: list[str] = []
    train_runs(runs()[0], small.images, CPU, None, None, strained, lines.append)
    assert lines == ["digits d3 VAE: out of memory; continuing with 3 of 6 members at a time (MemoryError)"]


def test_if_one_member_does_not_fit_training_fails(runs, small, tmp_path):
    def never(engine):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: 9 bytes")

    specs, _ = runs()
    lines: list[str] = []
    with pytest.raises(OutOfMemory, match=r"digits d3 VAE: out of memory with one member at a time: .*9 bytes"):
        train_runs(specs, small.images, CPU, None, tmp_path, never, lines.append)
    assert len(lines) == 3


def test_other_errors_are_not_mistaken_for_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_part_that_diverges_does_not_stop_the_others(runs, small, tmp_path):
    """As in a single array, in which the other members train on."""
    specs, _ = runs()

    def spoil(engine):
        for i, member in enumerate(engine.members):
            if member.spec.seed == 0 and member.restart < 2 and engine.epoch == 1:
                engine.method.decoder.logvar[i] = torch.nan

    whole = train_runs(specs, small.images, CPU, None, None, spoil)
    in_parts = train_runs(specs, small.images, CPU, None, smaller(tmp_path, 1), spoil)
    for found in (whole, in_parts):
        result = found[specs[0].key]
        assert isinstance(result, Result)
        assert result.chosen == 2 and result.val_iwae.isnan().tolist() == [True, True, False]
        assert result.losses[1:, :, :2].isnan().all() and result.losses.shape[0] == 2
    for spec in specs:
        torch.testing.assert_close(in_parts[spec.key].test_iwae, whole[spec.key].test_iwae, rtol=1e-11, atol=1e-11)


CHILD = """
import json, resource, sys, torch
from pathlib import Path
from rme import RunSpec
from rme.fitting import train_runs
from rme.data import Images
torch.set_num_threads(1)
torch.manual_seed(1)
folder = Path(sys.argv[1])
images = Images(*(torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8) for count in (300, 12)))
def spec(restarts):
    return RunSpec(method="vae", dataset="digits", dim=3, epochs=1, restarts=restarts, batch_size=256, iwae_samples=4,
                   learning_rate=1e-3)
def train(name):
    lines = []
    (found,) = train_runs([spec(6)], images, torch.device("cpu"), None, folder / name, None, lines.append).values()
    found.save(folder / name / "result")
    return lines
train_runs([spec(1)], images, torch.device("cpu"))  # allocates what one member needs, before the limit
pages = int(Path("/proc/self/statm").read_text().split()[0])
none = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (80 << 20), none[1]))
scarce = train("scarce")
resource.setrlimit(resource.RLIMIT_AS, none)
print(json.dumps([scarce, train("plenty")]))
"""


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc to compute the limit")
def test_under_a_real_memory_limit_smaller_arrays_are_trained(tmp_path):
    """With a limit of the kernel under which an array of six does not fit, but a smaller one does."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines, none = json.loads(done.stdout.splitlines()[-1])
    assert lines and "out of memory; continuing with" in lines[0] and none == []
    scarce, plenty = (Result.load(tmp_path / name / "result") for name in ("scarce", "plenty"))
    assert scarce.chosen == plenty.chosen
    torch.testing.assert_close(scarce.val_iwae, plenty.val_iwae, rtol=1e-4, atol=1e-2)  # float32
    torch.testing.assert_close(scarce.test_iwae, plenty.test_iwae, rtol=1e-4, atol=1e-2)
