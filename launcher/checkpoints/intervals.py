"""When the time for the next checkpoint has come."""

import time
from collections.abc import Callable


class SaveClock:
    """Tells whether so many minutes have passed since the last checkpoint.

    Clocks of ranks differ, and that of rank 0 counts.

    Args:
        minutes: between checkpoints; 0 for never.
        now: seconds, from any beginning.
    """

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = 60.0 * minutes, now
        self.restart()

    def restart(self) -> None:
        """Count from now on."""
        self._began = self._now()

    @property
    def is_due(self) -> bool:
        """Whether the time has come."""
        return self._seconds > 0 and self._now() - self._began >= self._seconds
