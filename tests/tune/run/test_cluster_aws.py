"""The shipped cluster.yaml against a moto server, which imitates AWS; instances are network namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import ROOT, machines
from tests.machines import SHARED, SUBNET, Network
from tests.tune.run.test_cluster_launcher import wait_for

MOTO = Path(sys.prefix) / "bin" / "moto_server"
WHY_NOT = machines.why_not() or (None if MOTO.exists() else "moto[server] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.long(180), pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")]
boto3 = pytest.importorskip("boto3")

ENDPOINT = f"http://{SUBNET}.1:5555"
AWS = {
    "AWS_ENDPOINT_URL": ENDPOINT, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-west-2", "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip
CALLER = "203.0.113.7/32"


class Cloud:
    """A network with a moto server, and a thread that starts and ends a machine for each of its instances."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.laptop = network.add("laptop")
        self.stop = threading.Event()
        self.turn = threading.Lock()
        self.ended: set[str] = set()

    @contextmanager
    def running(self) -> Iterator[Cloud]:
        command = self.network.inside([str(MOTO), "--host", f"{SUBNET}.1", "--port", "5555"])
        environment = {
            "PATH": machines.PATH,
            "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
            "AWS_DEFAULT_REGION": "us-west-2",
        }
        with open(self.network.folder / "moto.log", "wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_for(lambda: self.laptop.run(f"echo > /dev/tcp/{SUBNET}.1/5555").returncode == 0)
        asker = "import boto3, json, sys; ec2 = boto3.client('ec2')\n" \
            "for line in sys.stdin: print(json.dumps(eval(line), default=str), flush=True)"  # fmt: skip
        self.asker = subprocess.Popen(
            self.laptop.inside(["python", "-c", asker]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        thread = threading.Thread(target=self._embody, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stop.set()
            thread.join()
            for process in (self.asker, server):
                process.kill()
                process.wait()

    def ask(self, code: str) -> Any:
        """The value of an expression on `ec2`, a boto3 client."""
        with self.turn:
            assert self.asker.stdin and self.asker.stdout
            self.asker.stdin.write(code + "\n")
            self.asker.stdin.flush()
            return json.loads(self.asker.stdout.readline())

    def instances(self) -> list[dict]:
        reservations = self.ask("ec2.describe_instances()['Reservations']")
        return [instance for r in reservations for instance in r["Instances"]]

    def _embody(self) -> None:
        while not self.stop.wait(1):
            for instance in self.instances():
                name, state = instance["InstanceId"], instance["State"]["Name"]
                if state == "running" and name not in self.network.machines:
                    self.network.add(name, instance["PrivateIpAddress"])
                elif state in ("shutting-down", "terminated") and name in self.network.machines.keys() - self.ended:
                    self.ended.add(name)
                    self.network.machines[name].kill()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory) -> Iterator[Cloud]:
    with Network(tmp_path_factory.mktemp("cloud"), **AWS) as network, Cloud(network).running() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def config(cloud) -> str:
    """The path of the shipped file with its placeholders filled in, without commands that need the internet."""
    vpc = cloud.ask(f"ec2.create_vpc(CidrBlock='{SUBNET}.0/24')['Vpc']")["VpcId"]
    subnet = cloud.ask(
        f"ec2.create_subnet(VpcId='{vpc}', CidrBlock='{SUBNET}.0/24', AvailabilityZone='us-west-2a')['Subnet']"
    )["SubnetId"]
    cloud.ask(f"ec2.modify_subnet_attribute(SubnetId='{subnet}', MapPublicIpOnLaunch={{'Value': True}})")
    cloud.ask(
        "ec2.import_key_pair(KeyName='user', PublicKeyMaterial=open('/mnt/keys/user.pub','rb').read())['KeyName']"
    )
    group = cloud.ask(f"ec2.create_security_group(GroupName='rme', Description='rme', VpcId='{vpc}')")["GroupId"]
    cloud.ask(f"ec2.authorize_security_group_ingress(GroupId='{group}', IpPermissions=[{{'IpProtocol': 'tcp', "
        f"'FromPort': 22, 'ToPort': 22, 'IpRanges': [{{'CidrIp': '{CALLER}'}}]}}, {{'IpProtocol': '-1', "
        f"'UserIdGroupPairs': [{{'GroupId': '{group}'}}]}}])")  # fmt: skip
    image = cloud.ask("ec2.describe_images()['Images'][:1]")[0]["ImageId"]
    text = (ROOT / "cluster.yaml").read_text()
    for placeholder, name in (("sg-00000000000000000", group), ("ami-00000000000000000", image)):
        assert placeholder in text
        text = text.replace(placeholder, name)
    config = yaml.safe_load(text)
    config["provider"]["use_internal_ips"] = True
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "/mnt/keys/user"}
    for kind in config["available_node_types"].values():
        kind["node_config"]["KeyName"] = "user"
    needs_internet = [command for command in config["setup_commands"] if command.startswith("sudo")]
    assert len(needs_internet) == 2, "system packages and the shared folder"
    config["setup_commands"] = [c for c in config["setup_commands"] if c not in needs_internet]
    config["worker_start_ray_commands"][-1] += " --num-gpus=1"
    (cloud.laptop.folder / "cluster.yaml").write_text(yaml.safe_dump(config))
    cloud.laptop.check("ray get-auth-token --generate")
    return "/mnt/host/cluster.yaml"


def test_up_starts_a_head_demand_starts_a_spot_machine_and_down_ends_both(cloud, config):
    cloud.laptop.check(f"cd {ROOT} && ray up -y {config}")
    [head] = cloud.instances()
    assert head["InstanceType"] == "m6i.large"
    assert head.get("InstanceLifecycle") != "spot"

    # ssh is open only to the caller's address, even after Ray has changed the security group
    groups = cloud.ask("ec2.describe_security_groups()['SecurityGroups']")
    used = {group["GroupId"] for group in head["SecurityGroups"]}
    rules = [rule for group in groups if group["GroupId"] in used for rule in group["IpPermissions"]]
    assert [r["CidrIp"] for rule in rules for r in rule["IpRanges"]] == [CALLER]
    assert not any(rule["Ipv6Ranges"] for rule in rules)

    # no worker has joined yet: the sweep asks for --gpus-per-trial instead of guessing
    machine = cloud.network.machines[head["InstanceId"]]
    sweep = (
        f"cd ~/rme && python tune/sweep.py --grid smoke --address auto --storage {SHARED}/s --data-dir {SHARED}/d "
        "--tracking-uri http://127.0.0.1:5000"
    )
    refused = machine.run(sweep, RAY_AUTH_MODE="token")
    assert refused.returncode == 2
    assert "--gpus-per-trial" in refused.stdout

    ask = (
        "import ray; ray.init('auto', log_to_driver=False); "
        "print(ray.get(ray.remote(num_gpus=1)(ray.util.get_node_ip_address).remote()))"
    )
    address = machine.check(f'python -c "{ask}" 2>&1 | tail -1', RAY_AUTH_MODE="token").strip()
    [worker] = [i for i in cloud.instances() if i["InstanceId"] != head["InstanceId"]]
    assert worker["PrivateIpAddress"] == address
    assert worker["InstanceType"] == "g6.xlarge"
    assert worker["InstanceLifecycle"] == "spot"
    assert {group["GroupId"] for group in worker["SecurityGroups"]} == used

    cloud.laptop.check(f"ray down -y {config}")
    wait_for(lambda: {i["State"]["Name"] for i in cloud.instances()} == {"terminated"})
