"""Machines made of Linux namespaces, each with its own network, processes, home, /tmp and sshd.

They isolate tests of Ray's launcher, which kills every Ray process that it finds and writes into the home folder.
Leaving `Network` kills its first process, and with it all processes, mounts and devices.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import ROOT

HOME = Path("/mnt/home")
SHARED = Path("/mnt/rme")
SUBNET = "10.213.77"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = ("unshare", "nsenter", "ip", "ssh", "ssh-keygen", "sshd", "rsync", "tmux", "make", "git")


def why_not() -> str | None:
    """Why machines cannot be created here; None if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "machines need Linux namespaces and root"
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=PATH)]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: openssh-server iproute2 rsync tmux util-linux make git)"
    script = "mount -t tmpfs none /mnt && mkdir /mnt/a /mnt/b /mnt/c && ip link add br0 type bridge && " \
        "ip link add v0 type veth peer name v1 && mount -t overlay -o lowerdir=/mnt/a,upperdir=/mnt/b,workdir=/mnt/c " \
        "none /mnt/a"  # fmt: skip
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "sh", "-c", script],
        env={"PATH": PATH}, capture_output=True, text=True,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"namespaces are not permitted here: {tried.stderr.strip()}"


class Machine:
    """One machine.

    Attributes:
        address: its IP address on the network.
        folder: shared with the host computer; `/mnt/host` on the machine.
    """

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network, self.name, self.address = network, name, address
        self.folder = network.folder / name
        self.folder.mkdir()
        # init waits for this, so that services start after the mounts and the network
        begin = self.folder / "begin"
        os.mkfifo(begin)
        inside = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc",
            "bash", "-c", _INIT, "init", str(begin)]  # fmt: skip
        with open(self.folder / "log", "wb") as log:
            self._outer = subprocess.Popen(network.inside(inside), env={"PATH": PATH}, stdout=log, stderr=log)
        self.pid = _innermost(self._outer.pid, "init")
        self._mount(network)
        network.plug(self)
        begin.write_text("\n")

    def _mount(self, network: Network) -> None:
        visible = dict.fromkeys(Path(p).resolve() for p in (sys.prefix, sys.base_prefix, ROOT))
        hidden = [path for path in visible if path.is_relative_to("/tmp")]
        for file, text in {
            "passwd": f"root:x:0:0:root:{HOME}:/bin/bash\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n",
            "shadow": "root:*:19000:0:99999:7:::\n",
            "sshd_config": _SSHD.format(
                address=self.address,
                folder="/mnt/host",
                keys="/mnt/keys",
                home=HOME,
                environment=" ".join(f"{name}={value}" for name, value in network.environment.items()),
            ),
        }.items():
            (self.folder / file).write_text(text)
        lines = [
            "mount --make-rprivate /",
            "mount -t tmpfs none /mnt",
            f"mkdir -p {HOME} {SHARED} /mnt/host /mnt/keys /mnt/upper /mnt/work /mnt/hidden",
            f"mount --bind {self.network.shared} {SHARED}",
            f"mount --bind {self.folder} /mnt/host",
            f"mount --bind {self.network.keys} /mnt/keys",
            "mount --bind /mnt/host/passwd /etc/passwd",
            "mount --bind /mnt/host/shadow /etc/shadow",
            "mount -t tmpfs none /run && mkdir /run/sshd",
            # packages as if installed by `make venv`; the overlay keeps writes away from the real ones
            f"mkdir -p {HOME}/venv && mount -t overlay none {HOME}/venv "
            f"-o lowerdir={Path(sys.prefix).resolve()},upperdir=/mnt/upper,workdir=/mnt/work",
            f"touch {HOME}/venv/installed",
            *(f"mkdir /mnt/hidden/{i} && mount --bind {path} /mnt/hidden/{i}" for i, path in enumerate(hidden)),
            "mount -t tmpfs -o mode=1777 none /tmp",
            *(f"mkdir -p {path} && mount --bind /mnt/hidden/{i} {path}" for i, path in enumerate(hidden)),
            f"hostname {self.name}",
        ]
        script = "set -e\n" + "\n".join(lines)
        done = subprocess.run(
            ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "sh", "-c", script], env={"PATH": PATH},
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise OSError(f"{self.name}: {done.stderr}")

    def inside(self, command: Sequence[str], **environment: str) -> list[str]:
        """The command line that runs `command` on the machine, in its home."""
        known = {
            "HOME": str(HOME),
            "PATH": f"{HOME}/venv/bin:{PATH}",
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "USER": "root",
        }
        known |= {"PYTHONPATH": str(ROOT), **self.network.environment, **environment}
        wrapper = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", f"--wdns={HOME}", "env", "-i"]
        return [*wrapper, *(f"{name}={value}" for name, value in known.items()), *command]

    def run(self, command: str, timeout: float = 1800, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the machine; stderr goes to stdout."""
        return subprocess.run(
            self.inside(["bash", "-c", command], **environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout,
        )  # fmt: skip

    def check(self, command: str, timeout: float = 1800, **environment: str) -> str:
        """Output of a shell command; AssertionError with the output if it fails."""
        done = self.run(command, timeout, **environment)
        assert done.returncode == 0, f"{self.name}$ {command}\n{done.stdout[-6000:]}"
        return done.stdout

    def processes(self) -> list[str]:
        """Command lines of its processes, without init and this query."""
        return self.check("ps -eo args --no-headers | grep -v '^ps \\|^grep \\|^bash -c'").splitlines()

    def kill(self) -> None:
        """Kill the machine at once, as a power cut would."""
        os.kill(self.pid, 9)
        self._outer.wait()


class Network:
    """A bridge and the machines connected to it.

    Args:
        folder: for logs, keys, and the folder that all machines share as `/mnt/rme`.
        environment: variables of every process started on a machine.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = environment
        self.shared = folder / "shared"
        self.keys = folder / "keys"
        self.machines: dict[str, Machine] = {}
        for path in (self.shared, self.keys):
            path.mkdir()

    def __enter__(self) -> Network:
        for key in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.keys / key)]
            subprocess.run(command, check=True, env={"PATH": PATH})
        self._outer = subprocess.Popen(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sleep", "infinity"],
            env={"PATH": PATH},
        )
        self.pid = _innermost(self._outer.pid, "sleep")
        self._ip("link set lo up", "link add rme0 type bridge", f"addr add {SUBNET}.1/24 dev rme0", "link set rme0 up")
        return self

    def __exit__(self, *_: Any) -> None:
        self._outer.kill()
        self._outer.wait()
        for machine in self.machines.values():
            machine._outer.wait()

    def add(self, name: str, address: str | None = None) -> Machine:
        """Create a machine and wait for its sshd."""
        address = address or f"{SUBNET}.{100 + len(self.machines)}"
        machine = self.machines[name] = Machine(self, name, address)
        deadline = time.monotonic() + 120
        while subprocess.run(
            self.inside(["bash", "-c", f"echo > /dev/tcp/{address}/22"]), stderr=subprocess.DEVNULL
        ).returncode:
            assert time.monotonic() < deadline, (machine.folder / "log").read_text()
            time.sleep(0.1)
        return machine

    def inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", *command]

    def plug(self, machine: Machine) -> None:
        """Connect a machine to the bridge."""
        cable = f"rme{len(self.machines) + 1}"
        # `netns` takes the host's process id, so this runs outside the network's process namespace
        outside = ["nsenter", "-t", str(self.pid), "-n", "ip", "link", "add", cable, "type", "veth", "peer", "name"]
        subprocess.run([*outside, "eth0", "netns", str(machine.pid)], check=True, env={"PATH": PATH})
        self._ip(f"link set {cable} master rme0", f"link set {cable} up")
        for words in ("link set lo up", f"addr add {machine.address}/24 dev eth0", "link set eth0 up",
            f"route add default via {SUBNET}.1"):  # fmt: skip
            command = ["nsenter", "-t", str(machine.pid), "-n", "ip", *shlex.split(words)]
            subprocess.run(command, check=True, env={"PATH": PATH})

    def _ip(self, *commands: str) -> None:
        for words in commands:
            command = ["nsenter", "-t", str(self.pid), "-n", "ip", *shlex.split(words)]
            subprocess.run(command, check=True, env={"PATH": PATH})


# bash as init reaps orphaned processes; if sshd dies, the machine ends
_INIT = 'read -r < "$1"; /usr/sbin/sshd -D -e -f /mnt/host/sshd_config & wait $!'

_SSHD = """\
ListenAddress {address}
HostKey {keys}/host
AuthorizedKeysFile {keys}/user.pub
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
PidFile none
SetEnv PYTHONPATH={home}/rme LANG=C.UTF-8 {environment}
"""


def _innermost(pid: int, name: str) -> int:
    """Wait for the process of that name at the end of a chain of first children; its id. OSError after two minutes."""
    deadline = time.monotonic() + 120
    wanted = "bash" if name == "init" else name
    while time.monotonic() < deadline:
        at = pid
        while children := Path(f"/proc/{at}/task/{at}/children").read_text().split():
            at = int(children[0])
        if at != pid and Path(f"/proc/{at}/comm").read_text().strip() == wanted:
            return at
        time.sleep(0.02)
    raise OSError(f"{name} did not start")
