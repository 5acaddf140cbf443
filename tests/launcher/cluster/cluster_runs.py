"""Ranks on hosts of their own, and what they do to the network or to themselves in some place."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hosts import Hosts
from launcher_runs import Hook, Ranks, start

AT_STEP = "AT_STEP"
"""Variable of a rank's environment that tells the step at which something was done to it."""


@dataclass(frozen=True)
class Moment:
    """When a rank enters a place for the first time at or after a step."""

    place: str
    step: int


def at_moment(moment: Moment, action: Hook) -> Hook:
    """Let the rank do something once, at a moment."""
    return partial(_at_moment, moment, action)


def _at_moment(moment: Moment, action: Hook) -> None:
    from launcher.watch import Watch

    enter, done = Watch.enter, False

    def acting(watch: Watch, place: str, **options: Any) -> None:
        nonlocal done
        enter(watch, place, **options)
        step = watch._position.report().step
        if place == moment.place and step >= moment.step and not done:
            done = True
            os.environ[AT_STEP] = str(step)
            action()

    Watch.enter = acting  # type: ignore[method-assign]


def kill_self() -> None:
    """End this process as the kernel does that is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop_self() -> None:
    """Stop this process, as one that hangs in the kernel."""
    os.kill(os.getpid(), signal.SIGSTOP)


def start_on_hosts(
    hosts: Hosts,
    arguments: list[str],
    logs: Path,
    hooks: dict[int, Hook] | None = None,
    world_size: int | None = None,
) -> Ranks:
    """Start training with a rank on each host, rank 0 on the first.

    Args:
        hosts: where.
        arguments: of training.
        logs: folder for what the ranks print.
        hooks: what ranks do, by rank.
        world_size: number of ranks, dealt out to the hosts; as many as hosts by default.
    """
    size = world_size or hosts.num_hosts
    on_hosts = {
        rank: partial(_enter_host, hosts, rank % hosts.num_hosts, (hooks or {}).get(rank))
        for rank in range(size)
    }
    return start("train", arguments, logs, size, on_hosts)


def _enter_host(hosts: Hosts, host: int, then: Callable[[], None] | None) -> None:
    hosts.enter(host)
    os.environ.update(MASTER_ADDR=hosts.address(0), GLOO_SOCKET_IFNAME="eth0")
    if then is not None:
        then()
