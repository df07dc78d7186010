"""A real Slurm of one node for tests: its own munge key, ports and directories, gone at the end.

Use the fixture by importing it into a test module (`from slurm_cluster import slurm`); its value is the
environment a process needs to reach the cluster.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

START = 60.0  # seconds for the node to become idle
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CredType=cred/munge
StateSaveLocation={root}/ctld
SlurmdSpoolDir={root}/slurmd
SlurmctldPidFile={root}/ctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=5
SchedulerType=sched/backfill
KillWait=5
MinJobAge=2
MpiDefault=none
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=side Nodes={host} MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """What keeps this machine from running Slurm, or None."""
    missing = [
        name for name in ("munged", "slurmctld", "slurmd", "sbatch", "squeue") if not shutil.which(name)
    ]
    if missing:
        return f"Slurm is not installed: no {', '.join(missing)} (apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "slurmd needs root"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _write_conf(root: Path) -> None:
    host = socket.gethostname().split(".")[0]
    ctld_port, slurmd_port = _free_ports(2)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21  # half of it, in MB
    values = {"host": host, "ctld_port": ctld_port, "slurmd_port": slurmd_port, "root": root}
    (root / "slurm.conf").write_text(CONF.format(cpus=os.cpu_count(), memory=memory, **values))
    (root / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/zero\n")  # stands for a device
    for name in ("munge", "ctld", "slurmd"):
        (root / name).mkdir()
    key = root / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)


@contextmanager
def _daemon(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """A daemon in the foreground, stopped by its process id."""
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(what: str, ready, daemons: list[subprocess.Popen], root: Path) -> None:
    deadline = time.monotonic() + START
    while not ready():
        if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
            logs = "\n".join(
                f"{p.name}:\n{p.read_text(errors='replace')[-2000:]}" for p in root.glob("*.log")
            )
            raise RuntimeError(f"{what} did not come up\n{logs}")
        time.sleep(0.1)


@contextmanager
def slurm_cluster() -> Iterator[dict[str, str]]:
    """Start munge, the controller and one node of as many CPUs as there are; stop them on leaving.

    Yields:
        The environment variables that point Slurm's commands at this cluster.
    """
    root = Path(tempfile.mkdtemp(prefix="slurm-test-"))
    root.chmod(0o755)  # munge insists that its socket can be reached by everyone
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        _write_conf(root)
        munge, conf = root / "munge", root / "slurm.conf"
        files = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        flags = [f"--{flag}={munge / name}" for flag, name in files.items()]
        daemons = [stack.enter_context(_daemon(["munged", "-F", *flags], root / "munged.log"))]
        _wait_for("munged", (munge / "socket").exists, daemons, root)
        for name in ("slurmctld", "slurmd"):
            daemons.append(stack.enter_context(_daemon([name, "-D", "-f", str(conf)], root / f"{name}.log")))
        environment = {"SLURM_CONF": str(conf)}

        def ask(*command: str) -> str:
            return subprocess.run(
                command, env={**os.environ, **environment}, capture_output=True, text=True
            ).stdout

        _wait_for("slurmd", lambda: "idle" in ask("sinfo", "-h", "-p", "main", "-o", "%T"), daemons, root)
        try:
            yield environment
        finally:
            ask("scancel", "--user", "root")
            deadline = time.monotonic() + 20
            while ask("squeue", "-h").strip() and time.monotonic() < deadline:
                time.sleep(0.2)


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Environment variables of a running one-node Slurm; the test is skipped where there can be none."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with slurm_cluster() as environment:
        yield environment
