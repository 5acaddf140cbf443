"""Where ranks are, and which of them the others wait for in vain."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class Limits:
    """How long a rank may be without a sign of life.

    Attributes:
        start_seconds: until its first step is taken.
        step_seconds: from then on.
    """

    start_seconds: float = 600.0
    step_seconds: float = 180.0


@dataclass(frozen=True)
class Report:
    """Where a rank was when it was heard of.

    Every rank comes through the same places in the same order.

    Attributes:
        rank: of the process.
        host: its name.
        place: what it did, such as `forward`.
        step: training steps taken.
        count: places entered so far.
        idle_seconds: time without progress in this place.
        limit_seconds: how long that may take here.
    """

    rank: int
    host: str
    place: str
    step: int
    count: int
    idle_seconds: float
    limit_seconds: float

    @property
    def name(self) -> str:
        """Rank and host."""
        return f"rank {self.rank} on host {self.host}"

    @property
    def where(self) -> str:
        """Step and place."""
        return f"at step {self.step} in {self.place}"

    def to_message(self) -> dict[str, Any]:
        """Return the report as JSON takes it."""
        return asdict(self)

    @staticmethod
    def from_message(message: Mapping[str, Any]) -> "Report":
        """Return what `to_message` gave.

        Raises:
            ValueError: a field is missing or has another type.
        """
        return _REPORTS.validate_python(message)


_REPORTS = TypeAdapter(Report)


@dataclass(frozen=True)
class Heard:
    """A report and when it came, on this process's monotonic clock."""

    report: Report
    at_seconds: float

    def silent_seconds(self, now: float) -> float:
        """Return how long ago that was."""
        return now - self.at_seconds

    def idle_seconds(self, now: float) -> float:
        """Return how long the rank made no progress, as far as was heard."""
        return self.report.idle_seconds + self.silent_seconds(now)


def find_lost(heard: Sequence[Heard], silence_seconds: float, now: float) -> str | None:
    """Return a sentence that names the ranks which are lost or hang; None where all is well.

    A rank is lost when it is unheard of for longer than `silence_seconds`. Ranks hang when those
    that are behind all others have made no progress for longer than their limit: a rank that waits
    for another is ahead of it.
    """
    lost = [one for one in heard if one.silent_seconds(now) > silence_seconds]
    if lost:
        return join(describe_lost(one.report, one.silent_seconds(now)) for one in lost)
    count = min((one.report.count for one in heard), default=0)
    behind = [one for one in heard if one.report.count == count]
    if not behind or any(one.idle_seconds(now) <= one.report.limit_seconds for one in behind):
        return None
    hung = join(
        f"{one.report.name} has been {one.report.where} for {one.idle_seconds(now):.0f} s"
        for one in behind
    )
    waiting = dict.fromkeys(one.report.place for one in heard if one.report.count > count)
    if waiting:
        hung += f", where the others wait for it in {', '.join(waiting)}"
    return f"{hung} (the limit is {behind[0].report.limit_seconds:.0f} s)"


def describe_lost(report: Report, silent_seconds: float) -> str:
    """Return a sentence about a rank that is unheard of."""
    return (
        f"{report.name} has not been heard of for {silent_seconds:.0f} s, last seen {report.where}"
    )


def describe_ended(report: Report) -> str:
    """Return a sentence about a rank whose process ended without a word."""
    return (
        f"{report.name} has ended without a word, as if killed or out of memory, "
        f"last seen {report.where}"
    )


def describe_failed(report: Report, reason: str) -> str:
    """Return a sentence about a rank that told what it failed by."""
    return f"{report.name} failed {report.where}: {reason}"


def join(sentences: Iterable[str], most: int = 4) -> str:
    """Return the first few sentences as one, and how many more there are."""
    parts = list(sentences)
    more = f"; and {len(parts) - most} more" if len(parts) > most else ""
    return "; ".join(parts[:most]) + more


class Position:
    """Where this rank is; set by its main thread, read by the one that tells others."""

    def __init__(self, rank: int, host: str, limits: Limits) -> None:
        self.rank, self.host, self.limits = rank, host, limits
        self._started = False
        self._now = ("start", 0, 0, time.monotonic(), limits.start_seconds)

    def enter(self, place: str, step: int | None, seconds: float) -> None:
        """Come to the next place, where progress may take `seconds` if that is more than usual."""
        _, last_step, count, _, _ = self._now
        step = last_step if step is None else step
        limit = max(seconds, self.usual_seconds)
        self._now = (place, step, count + 1, time.monotonic(), limit)

    def progress(self) -> None:
        """Begin the time limit of this place anew."""
        place, step, count, _, limit = self._now
        self._now = (place, step, count, time.monotonic(), limit)

    def start_steps(self) -> None:
        """From now on the limit of steps holds."""
        self._started = True

    @property
    def usual_seconds(self) -> float:
        """The limit of places that ask for no more."""
        limits = self.limits
        return limits.step_seconds if self._started else limits.start_seconds

    @property
    def limit_seconds(self) -> float:
        """The limit of this place."""
        return self._now[4]

    def report(self) -> Report:
        """Return what the others hear of this rank."""
        place, step, count, since, limit = self._now
        return Report(
            rank=self.rank,
            host=self.host,
            place=place,
            step=step,
            count=count,
            idle_seconds=time.monotonic() - since,
            limit_seconds=limit,
        )
