"""The thread of each rank that hears of the others: all tell rank 0, and rank 0 tells all.

A process that ends closes its connection, a host that is cut off is noticed by the kernel, and a
process that is stopped or hangs by its silence or its lack of progress.
"""

import logging
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from typing import NoReturn

from launcher.watch.places import (
    Heard,
    Position,
    Report,
    describe_ended,
    describe_failed,
    describe_lost,
    find_lost,
)
from launcher.watch.wire import Line, Lost, Message, listen

log = logging.getLogger("lightrnn")

End = Callable[[str], NoReturn]
"""Ends this process, for a reason."""

PARTING_SECONDS = 3.0
"""How long a rank that leaves waits for its last words to arrive."""


class Watcher(ABC):
    """A thread that tells and hears, until this rank leaves or the job is at its end.

    Args:
        position: of this rank.
        world_size: number of processes.
        end: called with the reason when a rank is lost.
    """

    def __init__(self, position: Position, world_size: int, end: End) -> None:
        self.position, self.world_size, self.end = position, world_size, end
        self._selector = DefaultSelector()
        self._wake, woken = socket.socketpair()
        self._selector.register(woken, EVENT_READ, None)
        self._last_words: str | None = None
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @property
    def interval_seconds(self) -> float:
        """Time between two signs of life; rank 0 hears some hundred a second at most."""
        return max(min(1.0, self.position.limits.step_seconds / 10), self.world_size / 300)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def leave(self, reason: str = "") -> None:
        """Tell the others that this rank ends, and whether it failed by something; then stop."""
        self._last_words = reason
        self._wake.send(b"x")
        self._thread.join(4 * PARTING_SECONDS)

    def _run(self) -> None:
        try:
            self._watch()
        except Exception:
            log.exception("this rank is not watched any more")

    def _watch(self) -> None:
        due = time.monotonic()
        while self._last_words is None:
            self._hear(max(0.0, due - time.monotonic()))
            if time.monotonic() >= due:
                due = time.monotonic() + self.interval_seconds
                self._beat()
        self._part(self._last_words)

    def _hear(self, seconds: float) -> None:
        """Take what comes within a time, and return after the first of it."""
        for key, _ in self._selector.select(seconds):
            if key.data is not None:
                key.data()

    @abstractmethod
    def notice_silence_after(self, seconds: float) -> None:
        """Let the kernel notice hosts that are unreachable for so long."""

    @abstractmethod
    def _beat(self) -> None:
        """Give a sign of life, and look for those of others."""

    @abstractmethod
    def _part(self, reason: str) -> None:
        """Say the last words."""


class Hub(Watcher):
    """Rank 0: hears all ranks and tells what became of them.

    Args:
        position: of this rank.
        world_size: number of processes.
        token: what the others prove by that they belong here.
        end: called with the reason when a rank is lost.
    """

    def __init__(self, position: Position, world_size: int, token: int, end: End) -> None:
        super().__init__(position, world_size, end)
        self.token = token
        self._heard: dict[int, Heard] = {}
        self._lines: dict[int, Line] = {}
        self._left = 0
        self._last_beat = time.monotonic()
        self._changed = threading.Condition()
        self._listener = listen(world_size)
        self._selector.register(self._listener, EVENT_READ, self._accept)

    @property
    def port(self) -> int:
        """Where the others reach this rank."""
        port: int = self._listener.getsockname()[1]
        return port

    def notice_silence_after(self, seconds: float) -> None:
        for line in list(self._lines.values()):
            line.notice_silence_after(seconds)

    def wait_for_others(self, seconds: float) -> None:
        """Return when all others have left, or after a time."""
        with self._changed:
            self._changed.wait_for(lambda: self._left == self.world_size - 1, seconds)

    def _accept(self) -> None:
        line = Line(self._listener.accept()[0])
        self._selector.register(line, EVENT_READ, lambda: self._greet(line))

    def _greet(self, line: Line) -> None:
        """Take a rank's first messages; strangers are turned away."""
        try:
            first, *more = line.receive() or [{}]
            if first.get("token") != self.token:
                raise ValueError("another run's token")
            rank = Report.from_message(first).rank
        except (Lost, ValueError):
            self._forget(line)
            return
        line.notice_silence_after(self.position.limits.step_seconds)
        self._lines[rank] = line
        self._selector.modify(line, EVENT_READ, lambda: self._hear_from(rank))
        for message in [first, *more]:
            self._take(rank, message)
        with suppress(Lost):  # which the next `_hear` tells
            line.send(self.position.report().to_message())

    def _hear_from(self, rank: int) -> None:
        try:
            for message in self._lines[rank].receive():
                self._take(rank, message)
        except Lost as lost:
            self._lose(rank, lost)
        except ValueError as error:
            self._end(describe_failed(self._heard[rank].report, f"it sent {error}"))

    def _take(self, rank: int, message: Message) -> None:
        if "left" in message:
            report = Report.from_message(message)
            del self._heard[rank]
            self._forget(self._lines.pop(rank))
            with self._changed:
                self._left += 1
                self._changed.notify_all()
            if message["left"]:
                self._end(describe_failed(report, str(message["left"])))
        else:
            self._heard[rank] = Heard(Report.from_message(message), time.monotonic())

    def _lose(self, rank: int, lost: Lost) -> None:
        one = self._heard[rank]
        silent = one.silent_seconds(time.monotonic())
        self._forget(self._lines.pop(rank))
        self._end(describe_ended(one.report) if lost.by_peer else describe_lost(one.report, silent))

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last_beat > 3 * self.interval_seconds:
            # This process stood still, not the others: what they said meanwhile is yet to be read.
            self._heard = {rank: Heard(one.report, now) for rank, one in self._heard.items()}
        self._last_beat = now
        own = self.position.report()
        heard = [Heard(own, now), *self._heard.values()]
        sentence = find_lost(heard, self.position.usual_seconds, now)
        if sentence:
            self._end(sentence)
        self._tell_all(own.to_message())

    def _tell_all(self, message: Message) -> None:
        for line in self._lines.values():
            with suppress(Lost):  # which the next `_hear` tells
                line.send(message)

    def _end(self, sentence: str) -> None:
        self._tell_all_and_wait({"verdict": sentence})
        self.end(sentence)

    def _part(self, reason: str) -> None:
        own = self.position.report()
        self._tell_all_and_wait(
            {"verdict": describe_failed(own, reason)} if reason else {"left": ""}
        )

    def _tell_all_and_wait(self, message: Message) -> None:
        """Tell all ranks, and wait until they have closed: what is unread may be lost else."""
        self._tell_all(message)
        deadline = time.monotonic() + PARTING_SECONDS
        selector = DefaultSelector()
        for line in self._lines.values():
            selector.register(line, EVENT_READ, line)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                try:
                    key.data.receive()
                except (Lost, ValueError):
                    selector.unregister(key.data)

    def _forget(self, line: Line) -> None:
        self._selector.unregister(line)
        line.close()


class Member(Watcher):
    """Another rank: tells rank 0 of itself, and hears from there what became of all.

    Args:
        position: of this rank.
        world_size: number of processes.
        address, port: of rank 0.
        token: by which it knows this run.
        end: called with the reason when a rank is lost.

    Raises:
        OSError: rank 0 cannot be reached.
    """

    def __init__(
        self, position: Position, world_size: int, address: str, port: int, token: int, end: End
    ) -> None:
        super().__init__(position, world_size, end)
        limits = position.limits
        self._line = Line(socket.create_connection((address, port), limits.start_seconds))
        self._line.notice_silence_after(limits.step_seconds)
        self._line.send({**position.report().to_message(), "token": token})
        root = Report(0, address, "start", 0, 0, 0.0, limits.start_seconds)
        self._root = Heard(root, time.monotonic())
        self._root_left = False
        self._selector.register(self._line, EVENT_READ, self._hear_from_root)

    def notice_silence_after(self, seconds: float) -> None:
        self._line.notice_silence_after(seconds)

    def _hear_from_root(self) -> None:
        try:
            for message in self._line.receive():
                self._take(message)
        except Lost as lost:
            self._lose_root(lost)

    def _take(self, message: Message) -> None:
        if "verdict" in message:
            self._line.close()
            self.end(str(message["verdict"]))
        elif "left" in message:
            self._root_left = True
        else:
            self._root = Heard(Report.from_message(message), time.monotonic())

    def _lose_root(self, lost: Lost) -> None:
        if self._root_left:
            self._selector.unregister(self._line)
            return
        silent = self._root.silent_seconds(time.monotonic())
        report = self._root.report
        self.end(describe_ended(report) if lost.by_peer else describe_lost(report, silent))

    def _beat(self) -> None:
        root, silent = self._root.report, self._root.silent_seconds(time.monotonic())
        if silent > self.position.usual_seconds:
            if self._root_left:
                self.end(f"{root.name} left {root.where}, where this rank was not ready to")
            self._lose_silent_root(describe_lost(root, silent))
        if self._root_left:
            return
        try:
            self._line.send(self.position.report().to_message())
        except Lost as lost:
            self._lose_root(lost)

    def _lose_silent_root(self, sentence: str) -> NoReturn:
        """Leave a word for rank 0, which may stand still only, and end."""
        with suppress(Lost):
            self._line.send({**self.position.report().to_message(), "left": sentence})
        self.end(sentence)

    def _part(self, reason: str) -> None:
        """Say the last words, and wait until rank 0 has closed: what is unread may be lost else."""
        try:
            self._line.send({**self.position.report().to_message(), "left": reason})
            self._line.finish_sending()
            deadline = time.monotonic() + PARTING_SECONDS
            while time.monotonic() < deadline:
                ready = self._selector.select(max(0.0, deadline - time.monotonic()))
                if any(key.data is not None for key, _ in ready):
                    for message in self._line.receive():
                        if "verdict" in message:
                            self.end(str(message["verdict"]))
        except Lost:
            pass
        self._line.close()
