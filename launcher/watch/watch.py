"""Watching over the processes of a run: who is lost or hangs is named, and all end.

    with the watch of `joined_processes`:
        watch.enter("forward", step=57)           # where this rank is now
        for batch in watch.through(batches): ...  # a long place, with progress in it

A rank that is lost, hangs, or fails alone ends the run on every rank, with one line that says
which rank it was, on which host, at which step and in which place.
"""

import errno
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn, TypeVar

import torch.distributed as dist

from allocation import RemoteError, TorchCommunicator, run_together
from allocation.collectives import broadcast_text
from launcher.stop import INTERRUPTED
from launcher.watch.places import Limits, Position, describe_failed
from launcher.watch.watchers import Hub, Member, Watcher
from lightrnn.errors import LightRNNError

log = logging.getLogger("lightrnn")

Item = TypeVar("Item")

FAILED = 1
"""Exit status where training failed."""

NAMING_SECONDS = 10.0
"""How long a rank that lost a connection waits to hear whose fault it was."""

LAST_LINE_SECONDS = 10.0
"""How long writing the last line may take, as on a full or frozen disk."""


class WatchError(LightRNNError):
    """The ranks cannot watch over each other."""


class Watch:
    """This rank's part in watching over the run.

    Args:
        position: of this rank.
        watcher: tells it to the others; None without others.
        on_limit: called with the seconds for which this rank waits for others, when they change.
    """

    def __init__(
        self, position: Position, watcher: Watcher | None, on_limit: Callable[[float], None]
    ) -> None:
        self._position, self._watcher, self._on_limit = position, watcher, on_limit
        self._limit_seconds = 0.0
        if watcher is not None:
            watcher.start()

    def enter(self, place: str, *, step: int | None = None, seconds: float = 0.0) -> None:
        """Tell that this rank comes to a place, as all ranks do, in the same order.

        Args:
            place: in a few words.
            step: training steps taken, where that has changed.
            seconds: how long it may take here, where that is more than usual.
        """
        self._position.enter(place, step, seconds)
        if self._limit_seconds != self._position.limit_seconds:
            self._limit_seconds = self._position.limit_seconds
            self._on_limit(self._limit_seconds)

    def through(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items; each of them is progress in this place."""
        for item in items:
            self._position.progress()
            yield item

    def expect(self, limits: Limits) -> None:
        """Set how long ranks may be without progress."""
        self._position.limits = limits
        if self._watcher is not None:
            self._watcher.notice_silence_after(limits.step_seconds)

    def start_steps(self) -> None:
        """Tell that the first step is taken: from now on the limit of steps holds."""
        self._position.start_steps()

    @property
    def patience_seconds(self) -> float:
        """The limit of long work without progress to tell, as writing a checkpoint."""
        return self._position.limits.start_seconds

    def wait_for_others(self) -> None:
        """On rank 0, wait until the others have left, for it may hold what they need."""
        if isinstance(self._watcher, Hub):
            self._watcher.wait_for_others(NAMING_SECONDS)

    def leave(self) -> None:
        """Tell the others that this rank ends as it should."""
        if self._watcher is not None:
            self._watcher.leave()

    def end_unless_agreed(self, error: BaseException, agreed: tuple[type[Exception], ...]) -> None:
        """End this process and all others, unless all of them raise this error.

        Args:
            error: what this rank fails by.
            agreed: errors that all ranks raise together.
        """
        if self._watcher is None or isinstance(error, agreed):
            return
        status, reason = FAILED, f"{type(error).__name__}: {error}"
        if is_lost_connection(error):
            reason = "lost the others: " + reason
            time.sleep(NAMING_SECONDS)  # the watching thread ends this process as soon as it knows
        elif isinstance(error, KeyboardInterrupt):
            status, reason = INTERRUPTED, "interrupted by a second SIGINT"
        elif not (isinstance(error, OSError) and error.errno in _TROUBLE_OF_DISKS):
            sys.stderr.write("".join(traceback.format_exception(error)))
        reason = " ".join(reason.split())[:500]
        self._watcher.leave(reason)
        end(describe_failed(self._position.report(), reason), status)


def start_watch(
    group: dist.ProcessGroup,
    address: str,
    limits: Limits,
    on_limit: Callable[[float], None],
    user_errors: tuple[type[Exception], ...],
) -> Watch:
    """Connect all ranks to rank 0; called by every rank.

    Args:
        group: all ranks, for CPU tensors.
        address: of rank 0's host, as rank 0 knows it.
        limits: how long ranks may be without progress.
        on_limit: see `Watch`.
        user_errors: what is told in one line.

    Raises:
        WatchError: rank 0 cannot be reached, on every rank.
    """
    communicator = TorchCommunicator(group)
    rank, world_size = communicator.rank, communicator.world_size
    position = Position(rank, socket.gethostname(), limits)
    if world_size == 1:
        return Watch(position, None, on_limit)

    def connect() -> Watcher:
        try:
            return hub or Member(position, world_size, address, int(port), int(token), end)
        except OSError as error:
            raise WatchError(
                f"rank {rank} on host {position.host} cannot reach rank 0 at {address}:{port} "
                f"({error}), expected an open port; let the hosts reach each other on all ports"
            ) from error

    hub = Hub(position, world_size, secrets.randbits(62), end) if rank == 0 else None
    where = f"{address} {hub.port} {hub.token}" if hub else ""
    address, port, token = broadcast_text(where, 0, communicator).split(" ")
    watcher = run_together(connect, communicator, user_errors)
    return Watch(position, watcher, on_limit)


def end(reason: str, status: int = FAILED) -> NoReturn:
    """Say why training failed and end this process at once, whatever its other threads wait for."""
    timer = threading.Timer(LAST_LINE_SECONDS, os._exit, (status,))
    timer.daemon = True
    timer.start()
    log.error("training failed: %s; start again to go on from the last checkpoint", reason)
    for handler in log.handlers:
        handler.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_TROUBLE_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
"""Errors of the machine, not of this program: one line says all."""

_NETWORK = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|pair closure|timed? ?out",
    re.IGNORECASE,
)


def is_lost_connection(error: BaseException | None) -> bool:
    """Return whether an error, or what it came from, tells that other ranks cannot be reached."""
    if error is None:
        return False
    if isinstance(error, dist.DistError | RemoteError):
        return True
    inner = getattr(error, "failures", {})  # of a distributed checkpoint, by rank
    if any(is_lost_connection(one[0]) for one in inner.values()):
        return True
    if isinstance(error, RuntimeError) and _NETWORK.search(str(error)):
        return True
    return is_lost_connection(error.__cause__ or error.__context__)
