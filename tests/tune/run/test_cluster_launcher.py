"""The shipped cluster.local.yaml with Ray's launcher, on machines that are network namespaces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from rme import checkpoint
from rme.result import MARKER
from tests import ROOT, machines, standing
from tests.machines import SHARED, Machine, Network
from tests.sweeping import PATIENCE_S, Hold, write_grid
from tests.tiny import write_npz

WHY_NOT = machines.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.long(90), pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")]

ROWS = [{"method": "vae"}, {"method": "rme", "order": 2}]
SETTINGS = {"seed": "0-3", "epochs": 150, "stage_epochs": 40}
RUNS = 8
LAUNCHER = {"RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}
QUICK = {"RAY_worker_niceness": "0"}  # with Ray's default priority, workers hardly run on a busy machine
SWEEP = f"python tune/sweep.py --grid {SHARED}/spots.yaml --data-dir {SHARED}/data"


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Iterator[Network]:
    """A laptop, a head and two workers, with a data set and a grid in their shared folder."""
    environment = QUICK | standing.environment(SHARED / "hold")
    with Network(tmp_path_factory.mktemp("network"), **environment) as network:
        write_npz(network.shared / "spots.npz")
        write_grid(network.shared / "spots.yaml", ROWS, dataset=f"{SHARED}/spots.npz", **SETTINGS)
        for name in ("laptop", "head", "one", "two"):
            network.add(name)
        yield network


@pytest.fixture(scope="module")
def undisturbed(network) -> dict[str, torch.Tensor]:
    """The test scores of the same sweep, uninterrupted on one machine."""
    network.machines["laptop"].check(f"cd {ROOT} && {SWEEP} --storage {SHARED}/alone --report ~/report "
        "--tracking-uri sqlite:////mnt/home/mlflow.db")  # fmt: skip
    return scores(network.shared / "alone")


@pytest.fixture(scope="module")
def config(network) -> str:
    """The laptop's path of the shipped file with these machines' addresses."""
    config = yaml.safe_load((ROOT / "cluster.local.yaml").read_text())
    of = network.machines
    config["provider"] |= {"head_ip": of["head"].address, "worker_ips": [of["one"].address, of["two"].address]}
    config["worker_start_ray_commands"][-1] += " --num-cpus=1"  # all machines share this machine's cores
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "/mnt/keys/user"}
    (of["laptop"].folder / "cluster.yaml").write_text(yaml.safe_dump(config))
    of["laptop"].check("ray get-auth-token --generate")
    return "/mnt/host/cluster.yaml"


@pytest.fixture(scope="module")
def cluster(network, config) -> Network:
    """The network after `ray up`, when all workers have joined."""
    network.machines["laptop"].check(f"cd {ROOT} && ray up -y {config}", **LAUNCHER)
    wait_for(lambda: nodes(network.machines["head"]) == 3)
    return network


@pytest.fixture
def hold(network) -> Iterator[Hold]:
    with Hold(network.shared / "hold", SHARED / "hold") as hold:
        yield hold


def test_a_sweep_outlives_a_worker_and_takes_in_a_new_one(undisturbed, cluster, config, hold):
    """Trials pause after an epoch each, until the killed worker's trial has resumed on the new machine."""
    hold.after(1)
    laptop, head = cluster.machines["laptop"], cluster.machines["head"]
    sweep = (
        f"cd ~/rme && {SWEEP} --address auto --gpus-per-trial 0 \\\n --storage {SHARED}/storage "
        f"--report {SHARED}/report --tracking-uri http://127.0.0.1:5000 > {SHARED}/log 2>&1; echo $? > {SHARED}/status"
    )
    laptop.check(f"ray exec --tmux {config} '{sweep}'", **LAUNCHER)
    storage, status = cluster.shared / "storage", cluster.shared / "status"
    wait_for(lambda: (hold.standing("one") and hold.standing("two")) or status.exists())
    assert not status.exists(), (cluster.shared / "log").read_text()
    assert {path.stem for path in storage.glob("trials/*/epoch-*")} == {"epoch-000001"}
    cluster.machines["one"].kill()
    join(cluster, cluster.add("three"))
    wait_for(lambda: hold.standing("three") or status.exists())
    assert not status.exists(), (cluster.shared / "log").read_text()
    assert training(cluster.machines["three"])
    assert len(list(storage.glob("trials/*"))) == 2
    assert len(list(storage.glob("trials/*/epoch-000002*"))) == 1, "not resumed from the checkpoint"
    hold.lift()

    wait_for(status.exists)
    assert status.read_text().strip() == "0", (cluster.shared / "log").read_text()
    found = scores(storage)
    assert len(found) == RUNS
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(found[key], undisturbed[key]) for key in found)
    count = (
        "from mlflow import MlflowClient as C; c = C('http://127.0.0.1:5000'); e = c.get_experiment_by_name('spots'); "
        "print(len(c.search_runs([e.experiment_id], \"tags.run_key != '' and attributes.status = 'FINISHED'\")))"
    )
    assert head.check(f"python -c {machines.shlex.quote(count)}").split()[-1] == str(RUNS)


def test_the_head_trains_nothing_and_its_servers_are_open_only_to_itself(cluster):
    head = cluster.machines["head"]
    assert not training(head)
    laptop = cluster.machines["laptop"]
    for port in (5000, 8265):  # MLflow and the dashboard
        assert laptop.run(f"echo > /dev/tcp/{head.address}/{port}").returncode, f"port {port} is open to others"


@pytest.mark.parametrize("token", [None, "0123456789abcdef" * 4])
def test_a_client_without_the_token_is_refused(cluster, token):
    head = cluster.machines["head"]  # a driver needs a raylet on its machine
    give = f"echo {token} > ~/other/.ray/auth_token" if token else "true"
    done = head.run(
        f"rm -rf ~/other && mkdir -p ~/other/.ray && {give} && cd ~/rme && HOME=~/other {SWEEP} --gpus-per-trial 0 "
        f"--address {head.address}:6379 --storage {SHARED}/other --report ~/r --tracking-uri sqlite:////mnt/home/o.db",
        RAY_AUTH_MODE="token" if token else "disabled",  # else the client itself would refuse without a token
    )
    assert done.returncode == 2, done.stdout
    assert f"--address {head.address}:6379" in done.stdout
    assert "Traceback" not in done.stdout
    assert not list((cluster.shared / "other").glob("runs/*"))


@pytest.mark.last
def test_down_ends_every_ray(cluster, config):
    cluster.machines["laptop"].check(f"ray down -y {config}", **LAUNCHER)
    rays = ("raylet", "gcs_server", "ray::")
    for name in ("head", "two"):
        machine = cluster.machines[name]
        # a worker ends by itself some time after its head is gone
        wait_for(lambda machine=machine: not any(word in line for line in machine.processes() for word in rays))


def scores(storage: Path) -> dict[str, torch.Tensor]:
    """The test images' scores, by run key."""
    return {f.name: checkpoint.load(f / MARKER)[0]["test_iwae"] for f in (storage / "runs").iterdir()}


def nodes(head: Machine) -> int:
    ask = "import ray; ray.init('auto', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    return int(head.check(f'python -c "{ask}" 2>&1 | tail -1', RAY_AUTH_MODE="token"))


def training(machine: Machine) -> bool:
    return any("ray::ImplicitFunc" in line for line in machine.processes())


def join(cluster: Network, machine: Machine) -> None:
    """Add a machine to a running cluster, as in docs/cluster.md."""
    ssh = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i /mnt/keys/user"
    head, at = cluster.machines["head"].address, f"root@{machine.address}"
    laptop = cluster.machines["laptop"]
    laptop.check(f"""
        set -e
        cd {ROOT}
        rsync -a -e '{ssh}' --exclude .venv --exclude /data --exclude /storage ./ {at}:rme/
        rsync -a -e '{ssh}' ~/.ray/auth_token {at}:.ray/
        """)
    laptop.check(f"""
        {ssh} {at} 'mkdir -p ~/venv; ln -sfn ~/venv ~/rme/.venv && make -C rme venv &&
            RAY_AUTH_MODE=token ~/venv/bin/ray start --address={head}:6379 --num-cpus=1'
        """)


def wait_for(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {patience_s:g} s in vain"
        time.sleep(0.5)
