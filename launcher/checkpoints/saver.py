"""Writing checkpoints one at a time, beside training where the settings want it."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist

from allocation import TorchCommunicator, run_together
from launcher.checkpoints.folders import (
    checkpoint_name,
    drop_old_checkpoints,
    point_latest_at,
    remove_unfinished,
)
from launcher.checkpoints.snapshot import Snapshot
from launcher.checkpoints.writing import write_checkpoint
from launcher.run_dir import RunDirectory
from launcher.settings import CheckpointSettings

log = logging.getLogger("lightrnn")


class Saver:
    """Writes the checkpoints of a run; called by every rank alike.

    With `checkpoint.mode=async` training waits for the copy to the host's memory alone; a thread
    does the rest, over a group of its own. One checkpoint at most is under way.

    Use as a context manager, which waits for the last one.

    Args:
        run: where.
        settings: mode, and how many are kept.
        group: all ranks, for CPU tensors; used here only.
        device: where the process computes.
        resumed_from: the checkpoint that the state was read from.
    """

    def __init__(
        self,
        run: RunDirectory,
        settings: CheckpointSettings,
        group: dist.ProcessGroup,
        device: torch.device,
        resumed_from: Path | None = None,
    ) -> None:
        self._run, self._settings, self._device = run, settings, device
        self._communicator = TorchCommunicator(group)
        self._last_name = resumed_from.name if resumed_from else ""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the checkpoint under way has failed; `wait` raises why.

        Ranks learn it at different moments, and have to agree before any of them waits.
        """
        return self._failure is not None

    def save(self, snapshot: Snapshot) -> None:
        """Write a checkpoint, or begin to; the same state is not written twice.

        Raises:
            LightRNNError: on every rank, where this one or the one under way cannot be written.
        """
        self.wait()
        meta = snapshot.meta
        name = checkpoint_name(meta.step, reallocation_due=meta.rounds["due"])
        if name == self._last_name:
            return
        self._last_name = name
        if self._settings.mode == "sync":
            self._write(snapshot)
            return
        copied = snapshot.on_host()
        # A process that is ended at once, by a second SIGINT, waits for no thread.
        self._thread = threading.Thread(
            target=self._remember_failure,
            args=(lambda: self._write(copied),),
            name="checkpoint",
            daemon=True,
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait for the checkpoint under way.

        Raises:
            LightRNNError: on every rank, where it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        def tidy_up() -> None:
            if self._communicator.rank == 0:
                remove_unfinished(self._run)

        run_together(tidy_up, self._communicator)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.wait()
        elif isinstance(error, Exception) and self._thread is not None:
            # What ended training is told; the checkpoint under way is good to go on from.
            self._thread.join()

    def _write(self, snapshot: Snapshot) -> None:
        with _on(self._device):
            checkpoint = write_checkpoint(self._run, snapshot, self._communicator)
        if self._communicator.rank == 0:
            try:
                point_latest_at(checkpoint)
                drop_old_checkpoints(
                    self._run, self._settings.keep, self._settings.keep_every_steps
                )
            except OSError as error:
                log.warning("old checkpoints stay, for %s", error)

    def _remember_failure(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as failure:
            self._failure = failure


def _on(device: torch.device) -> AbstractContextManager[object]:
    # A thread's own device is at first another one.
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
