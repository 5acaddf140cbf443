"""Being asked to stop: by a signal, or by the end of the job's time."""

import logging
import math
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Self

log = logging.getLogger("lightrnn")

STOPPED = 75
"""Exit status of a run that stopped on request, with a checkpoint: start it again to go on."""

INTERRUPTED = 130
"""Exit status of a process that a second SIGINT ended at once."""

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGUSR1


class StopRequest:
    """Remembers that this process was asked to stop; a second SIGINT ends it at once.

    Use as a context manager. Where a stop was asked for, signals are ignored afterwards, for the
    process is about to end; else their handlers are put back.

    Attributes:
        deadline: time since the epoch, in seconds, from which on a stop counts as asked for.
    """

    def __init__(self) -> None:
        self.deadline = math.inf
        self._asked = False

    @property
    def received(self) -> bool:
        """Whether this process should stop at the next opportunity."""
        if not self._asked and time.time() >= self.deadline:
            self._ask("the job's time is nearly over")
        return self._asked

    def __enter__(self) -> Self:
        self._replaced = {number: signal.signal(number, self._receive) for number in SIGNALS}
        # The interpreter runs `_receive` only between its own steps, not while it waits for other
        # ranks; the numbers arrive in this pipe at once.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._end_at_second_interrupt, daemon=True).start()
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._asked:
            self._ask(f"asked to stop by {signal.Signals(number).name}")

    def _ask(self, reason: str) -> None:
        self._asked = True
        log.info("%s: a checkpoint follows this step or reallocation", reason)

    def _end_at_second_interrupt(self) -> None:
        num_interrupts = 0
        while numbers := os.read(self._reader, 1):
            num_interrupts += numbers[0] == signal.SIGINT
            if num_interrupts == 2:
                os._exit(INTERRUPTED)
        os.close(self._reader)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, signal.SIG_IGN if self._asked else handler)
        signal.set_wakeup_fd(-1)
        os.close(self._writer)


STATUS_FILE = "LIGHTRNN_STATUS_FILE"
"""Variable that names a file for the exit status of training.

Launchers tell other statuses than their workers', and none at all of workers that were killed: the
script of a job reads this file. It is written before any process ends.
"""


def leave_status(status: int) -> None:
    """Write the exit status of training to the file that the environment names, if any."""
    path = os.environ.get(STATUS_FILE)
    if path:
        temporary = Path(f"{path}.{os.uname().nodename}-{os.getpid()}")
        with temporary.open("w") as file:
            file.write(f"{status}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
