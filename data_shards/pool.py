"""Workers of a build: this process alone, processes of this machine, or the ranks of MPI.

All three are executors of `concurrent.futures`, so that what they work on need not know them.
"""

import importlib.util
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import Any, cast

import pyarrow as pa

from data_shards.errors import CorpusError

Report = Callable[[str], None]

MPI_VARIABLES = "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK"
"""One of these is in the environment of every process that an MPI started."""

TASKS_A_WORKER = 2
"""So many wait or are worked on, so that no worker idles and few are lost when one fails."""


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Attributes:
        executor: gives tasks to the workers; without one this process does them itself.
        number: of workers.
    """

    executor: Executor | None = None
    number: int = 1

    def each(self, tasks: Mapping[str, tuple[Any, ...]]) -> Iterator[tuple[str, Any]]:
        """Do named tasks, and yield name and result of each when it is done.

        Args:
            tasks: a function and its arguments, by name; a function of a module, for it may be
                sent to another process.

        Raises:
            Exception: the first that a task raises; those not begun are not done then.
        """
        if self.executor is None:
            for name, (work, *arguments) in tasks.items():
                yield name, _do(work, *arguments)
            return
        name_of: dict[Future[Any], str] = {}
        try:
            for name, (work, *arguments) in tasks.items():
                if len(name_of) >= TASKS_A_WORKER * self.number:
                    yield from _first_done(name_of)
                name_of[self.executor.submit(_do, work, *arguments)] = name
            while name_of:
                yield from _first_done(name_of)
        finally:
            for future in name_of:
                future.cancel()


def _do(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do a task; give back the memory that Arrow would keep for the next one."""
    try:
        return work(*arguments)
    finally:
        pa.default_memory_pool().release_unused()


def _first_done(name_of: dict[Future[Any], str]) -> Iterator[tuple[str, Any]]:
    for future in wait(name_of, return_when=FIRST_COMPLETED).done:
        yield name_of.pop(future), future.result()


@contextmanager
def local_workers(number: int) -> Iterator[Workers]:
    """Give workers on this machine; one is this process itself.

    Raises:
        CorpusError: there are to be none, or one of them was killed.
    """
    if number < 1:
        raise CorpusError(f"workers={number}, expected at least 1; raise --workers")
    if number == 1:
        yield Workers()
        return
    try:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            number, mp_context=spawn, initializer=_end_with_parent
        ) as executor:
            yield Workers(executor, number)
    except BrokenProcessPool as error:
        raise CorpusError(
            f"one of {number} workers was killed, as happens where memory is short; start again "
            "to go on, with fewer --workers or smaller --shard-tokens"
        ) from error


def _end_with_parent() -> None:
    """Let this worker end when the process that it works for is gone, as after a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch() -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def started_by_mpi() -> bool:
    """Whether an MPI started this process, perhaps beside others."""
    return any(name in os.environ for name in MPI_VARIABLES)


def run_with_mpi(build: Callable[[Workers], int]) -> int:
    """Let rank 0 build with all other ranks as its workers; return its exit status on all ranks.

    Args:
        build: gets the workers; what a user can mend it tells, and returns a status.

    Raises:
        CorpusError: mpi4py is not installed.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise CorpusError(
            "this process was started by MPI, but mpi4py is not installed; install lightrnn[mpi], "
            "or start without mpiexec and with --workers"
        )
    from mpi4py import MPI
    from mpi4py.futures import MPICommExecutor

    communicator = MPI.COMM_WORLD
    num_workers = communicator.Get_size() - 1
    if num_workers == 0:
        return build(Workers())
    status = bytearray(1)
    with MPICommExecutor(communicator, root=0) as executor:
        if executor is not None:
            status[0] = build(Workers(cast(Executor, executor), num_workers))
    communicator.Bcast([status, MPI.BYTE], root=0)
    return status[0]
