"""Being asked to stop."""

import logging
import signal
from types import FrameType
from typing import Self

log = logging.getLogger("lightrnn")

STOPPED = 75
"""Exit status of a run that stopped on request, with a checkpoint: start it again to go on."""


class StopRequest:
    """Remembers that this process was asked to stop; a second SIGINT ends it at once.

    Use as a context manager, which puts the signals' handlers back.
    """

    received = False

    def __enter__(self) -> Self:
        self._replaced = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.received:
            log.info("asked to stop: a checkpoint follows this step or reallocation")
        self.received = True

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
