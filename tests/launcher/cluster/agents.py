"""torchrun on hosts of their own: an agent a host, each with one worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hosts import Hosts
from launcher_runs import read_records

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

WAIT_SECONDS = 400.0
_PORT = 29_400
_MEETING = (
    "join_timeout=120,last_call_timeout=3,keep_alive_interval=2,keep_alive_max_attempt=4,"
    "timeout=120,read_timeout=60"
)


@dataclass
class Agents:
    """Agents of one elastic run on two hosts at least.

    Args:
        hosts: where.
        arguments: of training.
        folder: for what they print, and for the file that makes steps slow.
        run_dir: of the run.
    """

    hosts: Hosts
    arguments: list[str]
    folder: Path
    run_dir: Path
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    orphans: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.slow_while.touch()

    @property
    def slow_while(self) -> Path:
        """While this file exists, steps are slow."""
        return self.folder / "slow"

    def start(self, host: int) -> None:
        """Start the agent of a host."""
        command = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", f"2:{self.hosts.num_hosts}", "--nproc-per-node", "1"),
            *("--max-restarts", "9", "--monitor-interval", "0.5", "--rdzv-backend", "c10d"),
            *("--rdzv-endpoint", f"{self.hosts.address(0)}:{_PORT}", "--rdzv-conf", _MEETING),
            *("--rdzv-id", self.run_dir.name, str(HERE / "slow_train.py"), *self.arguments),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "SLOW_WHILE": str(self.slow_while),
        }
        with self.log(host).open("ab") as log:
            self.running[host] = subprocess.Popen(
                self.hosts.command(host, command), env=environment, stdout=log, stderr=log
            )

    def log(self, host: int) -> Path:
        """Return where an agent and its worker print."""
        return self.folder / f"agent-{host}.log"

    def worker(self, host: int) -> int:
        """Return the process number of a host's worker."""
        (worker,) = self.wait_for(lambda: children_of(self.running[host].pid))
        return worker

    def kill(self, host: int, *, with_worker: bool) -> None:
        """End an agent, or all of a host, as a power cut does."""
        workers = children_of(self.running[host].pid)
        agent = self.running.pop(host)
        agent.kill()
        if with_worker:
            kill_all(workers)
        else:
            self.orphans += workers
        agent.wait()

    def wait_for(self, found: Callable[[], list[int]]) -> list[int]:
        """Return what is found, as soon as it is."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not (result := found()):
            assert time.monotonic() < deadline, self.tell()
            time.sleep(0.1)
        return result

    def wait_for_steps_of(self, world_size: int) -> None:
        """Wait until the last start was one with so many ranks and has taken steps."""

        def has_begun() -> list[int]:
            records = self._records()
            sizes = [one["world_size"] for one in records if one["event"] == "start"]
            return [1] if sizes[-1:] == [world_size] and records[-1]["event"] == "train" else []

        self.wait_for(has_begun)

    def _records(self) -> list[dict[str, object]]:
        return read_records(self.run_dir) if (self.run_dir / "metrics.jsonl").is_file() else []

    def finish(self) -> dict[int, int]:
        """Let the steps be quick, and return the statuses of the agents, by host."""
        self.slow_while.unlink(missing_ok=True)
        return {host: agent.wait(WAIT_SECONDS) for host, agent in self.running.items()}

    def close(self) -> None:
        """End what still runs."""
        for host in list(self.running):
            if self.running[host].poll() is None:
                self.kill(host, with_worker=True)
        kill_all(self.orphans)

    def tell(self) -> str:
        """Return all logs."""
        return "\n".join(log.read_text() for log in sorted(self.folder.glob("agent-*.log")))


def kill_all(processes: list[int]) -> None:
    """End processes of which some may have ended themselves."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def children_of(process: int) -> list[int]:
    """Return the numbers of a process's children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended meanwhile
            continue
        if parent == process:
            found.append(int(path.parent.name))
    return found
