"""The faults of `soak.py` that strike a run under torchrun, with an agent on three hosts each."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agents import Agents
from hosts import Hosts
from launcher_runs import checkpoint_steps, read_records
from soak_faults import Attempt

from launcher.verify import verify
from lightrnn import LightRNNError

AGENT_KINDS = ("torchrun: kill a worker", "torchrun: kill an agent", "torchrun: kill a host")
NUM_AGENTS = 3


def break_agents(
    folder: Path,
    hosts: Hosts,
    settings: Callable[..., list[str]],
    draw: random.Random,
    num_faults: int,
) -> Iterator[Attempt]:
    """Break one elastic run so many times, and let it come to its end.

    The first host, where the agents meet, is spared: without it torchrun ends, and what started it
    has to start it again.
    """
    run_dir = folder / "run"
    arguments = settings(run_dir)
    agents = Agents(hosts, arguments, folder / "logs", run_dir)
    try:
        for host in range(NUM_AGENTS):
            agents.start(host)
        agents.wait_for_steps_of(NUM_AGENTS)
        for number in range(num_faults):
            yield _break(agents, AGENT_KINDS[number % len(AGENT_KINDS)], draw)
        statuses = agents.finish()
    finally:
        agents.close()
    assert set(statuses.values()) == {0}, agents.tell()


def _break(agents: Agents, kind: str, draw: random.Random) -> Attempt:
    """Let a fault strike, wait for the run to go on, and bring back what was lost."""
    host = draw.randint(1, NUM_AGENTS - 1)
    time.sleep(10 * draw.random())
    before = max(checkpoint_steps(agents.run_dir), default=0)
    step = _last_step(agents.run_dir)
    num_starts = _num_starts(agents)
    struck = time.monotonic()
    if kind == "torchrun: kill a worker":
        os.kill(agents.worker(host), signal.SIGKILL)
    else:
        agents.kill(host, with_worker=kind == "torchrun: kill a host")
    if kind != "torchrun: kill an agent":  # its worker goes on without it
        agents.wait_for(lambda: [1] if _num_starts(agents) > num_starts else [])
    resumed_at = max(checkpoint_steps(agents.run_dir), default=0)
    go_on_from = step if kind == "torchrun: kill an agent" else resumed_at
    agents.wait_for(lambda: [1] if _last_step(agents.run_dir) > go_on_from else [])
    seconds = time.monotonic() - struck
    lost = int(max(checkpoint_steps(agents.run_dir), default=0) < before or not _is_whole(agents))
    if host not in agents.running:
        num_starts = _num_starts(agents)
        agents.start(host)
        agents.wait_for(lambda: [1] if _num_starts(agents) > num_starts else [])
        agents.wait_for_steps_of(NUM_AGENTS)
    return Attempt(
        kind=kind,
        place="anywhere",
        step=step,
        victim=host,
        world_size=NUM_AGENTS,
        outcome="went on",
        statuses=[],
        seconds=round(seconds, 2),
        steps_again=max(0, step - go_on_from),
        checkpoints_lost=lost,
    )


def _num_starts(agents: Agents) -> int:
    """Return how often rank 0 has said that it goes on from a checkpoint."""
    return agents.tell().count("resumed from")


def _last_step(run_dir: Path) -> int:
    return max((one["step"] for one in read_records(run_dir, "train")), default=0)


def _is_whole(agents: Agents) -> bool:
    for _ in range(3):  # a checkpoint may be dropped while it is looked at
        try:
            verify(agents.run_dir, lambda _: None)
        except (LightRNNError, OSError):
            time.sleep(1)
        else:
            return True
    return False
