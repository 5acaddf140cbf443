"""Real processes for tests: one function on every rank of a gloo group, results by rank.

Forking a parent that has imported torch starts a group in tenths of a second, where a fresh
interpreter takes seconds. It is safe as long as the parent has run no OpenMP region with several
threads, whence the one thread set here, before any test runs, and numba's own threads in place of
OpenMP's, which end a process that was forked.
"""

import contextlib
import faulthandler
import gc
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numba
import torch
import torch._dynamo  # Imported by the first DDP of a process: once here, not in every rank.
import torch.distributed as dist

torch.set_num_threads(1)
numba.config.THREADING_LAYER = "workqueue"

GRACE_SECONDS = 5.0
"""How long the other ranks may go on after one has failed."""


def run_distributed(
    function: Callable[..., Any],
    world_size: int,
    *arguments: Any,
    timeout_seconds: float = 60.0,
) -> list[Any]:
    """Run `function(*arguments)` on every rank of a new gloo group; return results by rank.

    Args:
        function: any callable, also a local one; its results are pickled.
        world_size: number of processes.
        arguments: the same for every rank.
        timeout_seconds: a rank that takes longer hangs; the test fails, and tells where it stood.

    Raises:
        AssertionError: a rank failed or hung, with every such rank's traceback, first failure
            first.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(
                target=_run_rank,
                args=(rank, world_size, folder, timeout_seconds, function, arguments),
                daemon=True,
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            hung = _wait(processes, timeout_seconds)
        finally:
            for process in processes:
                process.kill()
                process.join()
        _raise_failures(processes, hung, folder)
        return [
            pickle.loads((folder / f"{rank}.result").read_bytes()) for rank in range(world_size)
        ]


def _run_rank(
    rank: int,
    world_size: int,
    folder: Path,
    timeout_seconds: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    try:
        with (folder / f"{rank}.stack").open("w") as stack:
            faulthandler.register(signal.SIGUSR1, file=stack)
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder / 'store'}",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=2 * timeout_seconds),
            )
            content = pickle.dumps(function(*arguments))
            # A DDP object that outlives the group can hang in the group's destructor.
            gc.collect()
            dist.destroy_process_group()
            (folder / f"{rank}.result").write_bytes(content)
            faulthandler.unregister(signal.SIGUSR1)
    except BaseException:
        (folder / f"{rank}.error").write_text(traceback.format_exc())
        os._exit(1)


def _wait(processes: list[BaseProcess], timeout_seconds: float) -> list[int]:
    """Wait until all have ended; return the ranks that hang, their stacks asked for."""
    deadline = time.monotonic() + timeout_seconds
    failed = False
    while any(process.is_alive() for process in processes):
        if not failed and any(process.exitcode for process in processes):
            failed = True
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hung:
        with contextlib.suppress(ProcessLookupError):
            os.kill(processes[rank].pid or 0, signal.SIGUSR1)
    if hung:
        time.sleep(0.3)
    return hung


def _raise_failures(processes: list[BaseProcess], hung: list[int], folder: Path) -> None:
    errors = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    parts = [f"rank {path.stem} failed:\n{path.read_text()}" for path in errors]
    known = {int(path.stem) for path in errors} | set(hung)
    parts += [f"rank {rank} hung, last call first:\n{_stack(rank, folder)}" for rank in hung]
    parts += [
        f"rank {rank} ended with exit code {process.exitcode}"
        for rank, process in enumerate(processes)
        if process.exitcode and rank not in known
    ]
    if parts:
        raise AssertionError("\n".join(parts))


def _stack(rank: int, folder: Path) -> str:
    """Return what a hung rank was doing, without the calls of the parent that forked it."""
    lines = (folder / f"{rank}.stack").read_text().splitlines()
    ours = [number for number, line in enumerate(lines) if " in _run_rank" in line]
    return "\n".join(lines[: ours[-1]] if ours else lines)
