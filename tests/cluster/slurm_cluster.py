"""A SLURM of its own on this machine: a controller, and a daemon for each of some nodes.

Everything it needs lies in one folder: keys, sockets, configuration, state. Several can run side by
side, and beside a SLURM of the machine.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PROGRAMS = "slurmctld", "slurmd", "sbatch", "munged", "unshare"
START_SECONDS, CALL_SECONDS = 60, 400

CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=15
KillWait=5
UnkillableStepTimeout=300
MinJobAge=3600
PropagateResourceLimits=NONE
{nodes}
PartitionName=DEFAULT Nodes=ALL DefaultTime=60
PartitionName=work Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent PriorityTier=10 PreemptMode=OFF
"""
"""A job that is queued again waits `cred_expire` seconds before it starts."""


@dataclass
class SlurmCluster:
    """The running daemons, and what one asks of them.

    Attributes:
        folder: for all its files; its path is short, for sockets lie in it.
        nodes: names of the nodes.
    """

    folder: Path
    nodes: Sequence[str]
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What lets commands find this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def call(self, *command: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """Run a command that has to succeed; return what it prints."""
        ended = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {}), **self.environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_SECONDS,
        )
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def ask(self, *command: str) -> str:
        """Run a command of SLURM; return what it prints."""
        return self.call(*command, cwd=self.folder)

    def job(self, job_id: str) -> dict[str, str]:
        """Return what SLURM knows of a job."""
        words = self.ask("scontrol", "show", "job", "--oneliner", job_id).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start(self) -> None:
        """Start all daemons, and wait until the nodes take jobs."""
        self._write_files()
        folder = str(self.folder)
        config = ["-D", "-f", f"{folder}/slurm.conf"]
        munged = ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key"]
        names = ("socket", "pid-file", "log-file", "seed-file")
        self._start("munged", [*munged, *(f"--{name}={folder}/munge.{name}" for name in names)])
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._start("slurmctld", ["slurmctld", *config])
        for node in self.nodes:
            # Names of nodes resolve for the jobs, in a view of the file system of their own.
            hosts = f'mount --bind {folder}/hosts /etc/hosts && exec slurmd "$@"'
            own_view = ["unshare", "--mount", "sh", "-c", hosts]
            self._start(node, [*own_view, "slurmd", *config, "-N", node])
        self._wait(lambda: self._states() == ["idle"] * len(self.nodes))

    def stop(self) -> None:
        """End all jobs, and the daemons that this started."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.ask("scancel", "--partition=work")
            self._wait(lambda: not self.ask("squeue", "--noheader"))
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def logs(self) -> str:
        """Return the end of what each daemon printed."""
        paths = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {path.stem}\n{path.read_text()[-2000:]}" for path in paths)

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**os.environ, **self.environment},
                )
            )

    def _states(self) -> list[str]:
        asked = ["sinfo", "--noheader", "--Node", "--partition=work", "--format=%T"]
        ended = subprocess.run(
            asked,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.stdout.split()

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"the cluster is not ready\n{self.logs()}"
            time.sleep(0.2)

    def _write_files(self) -> None:
        for name in ("state", *self.nodes, "cgroup/systemd"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        hardware = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000"
        port, *ports = _free_ports(1 + len(self.nodes))
        config = CONFIG.format(
            host=host,
            port=port,
            folder=self.folder,
            nodes="\n".join(
                f"NodeName={node} {hardware} Port={own_port}"
                for node, own_port in zip(self.nodes, ports, strict=True)
            ),
        )
        (self.folder / "slurm.conf").write_text(config)
        # The daemon of a node insists on a place for control groups, though none is made.
        (self.folder / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={self.folder}/cgroup\n"
        )
        names = "".join(f"127.0.0.1 {node}\n" for node in self.nodes)
        (self.folder / "hosts").write_text(Path("/etc/hosts").read_text() + "\n" + names)


@contextlib.contextmanager
def running_cluster(num_nodes: int) -> Iterator[SlurmCluster]:
    """Start a cluster, and stop it at the end; skip the test where that cannot be done."""
    missing = [name for name in PROGRAMS if _which(name) is None]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} missing: apt-get install slurmctld slurmd slurm-client munge"
        )
    if os.geteuid() != 0:
        pytest.skip("the daemons of SLURM are started by root only")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder, [f"node{number}" for number in range(1, num_nodes + 1)])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _which(name: str) -> str | None:
    return shutil.which(name, path=_path())


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(number: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
