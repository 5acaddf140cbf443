"""The faults of `soak.py` that strike ranks without an agent, and the runs that they strike."""

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster_runs import AT_STEP, Moment, at_moment, kill_self, start_on_hosts, stop_self
from hosts import Hosts
from launcher_runs import Hook, Ranks, checkpoint_steps, measured, read_records

from launcher.verify import verify
from lightrnn import LightRNNError

HANG_SECONDS = 120.0
TMPFS_MIB = 24
SHORT_CUT_SECONDS = 2.0

PLACES = (
    *("data", "forward", "gradient all-reduce", "log", "evaluation", "checkpoint"),
    *(f"reallocation: {step}" for step in ("statistics", "exchange", "solve")),
    *(f"reallocation: {step}" for step in ("certificate", "commit")),
)
KINDS = (
    "kill a worker",
    "stop a worker (SIGSTOP)",
    "a worker hangs",
    "cut a cable",
    "cut a cable for 2 s",
    "full disk",
    "kill during a save",
)


@dataclass(frozen=True)
class Attempt:
    """One fault and what came of it.

    Attributes:
        kind: of the fault.
        place, step: where it struck.
        victim: the rank that it struck.
        world_size: how many ranks there were.
        outcome: went on; ended, named (every other rank told of the victim, or of the disk); ended;
            hung.
        statuses: exit statuses by rank; None where the victim was stopped.
        seconds: from the fault to the end of all other ranks, or of the run.
        steps_again: steps that were taken again after the next start.
        checkpoints_lost: checkpoints that were whole before and are not now.
    """

    kind: str
    place: str
    step: int
    victim: int
    world_size: int
    outcome: str
    statuses: list[int | None]
    seconds: float
    steps_again: int
    checkpoints_lost: int

    def describe(self) -> str:
        """Return a line."""
        return (
            f"{self.kind:24} rank {self.victim} of {self.world_size}, step {self.step:3d}, "
            f"{self.place:26} {self.outcome}, {self.seconds:.1f} s, statuses {self.statuses}"
        )


class Lap:
    """One run, started again and again.

    Args:
        folder: its own; a small disk is mounted there.
        hosts: where its ranks are.
        settings: gives the options of a run in a folder.
        draw: decides everything.
        same_size: whether each start has as many ranks as there are hosts.
    """

    def __init__(
        self,
        folder: Path,
        hosts: Hosts,
        settings: Callable[..., list[str]],
        draw: random.Random,
        *,
        same_size: bool,
    ) -> None:
        self.folder, self.hosts, self.draw, self.same_size = folder, hosts, draw, same_size
        self.logs = folder.with_name(f"{folder.name}-logs")
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        size = f"size={TMPFS_MIB}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.disk], check=True)
        self.run_dir = self.disk / "run"
        self.arguments = settings(self.run_dir)
        self.done = False

    def close(self) -> None:
        """Take the disk away."""
        subprocess.run(["umount", "-l", self.disk], check=True)

    def broken(self, most: int, deadline: float) -> Iterator[Attempt]:
        """Break the run until it has ended, so many faults have struck, or it is too late."""
        num_struck = 0
        while num_struck < most and not self.done and time.monotonic() < deadline:
            attempt = self._break()
            if attempt is not None:
                num_struck += 1
                yield attempt

    def finish(self) -> None:
        """Let the run come to its end."""
        if not self.done:
            ranks = self._start({}, self._size())
            hung = self._wait(ranks, None, seconds=10 * HANG_SECONDS)
            statuses = [process.exitcode for process in ranks.processes]
            if hung or any(statuses):
                raise RuntimeError(f"a run left in peace ended with {statuses}")
            self.done = True

    def ended_like(self, whole: Path, events: tuple[str, ...]) -> bool:
        """Return whether the losses are those of a run that nothing happened to."""
        if self.same_size:
            return measured(self.run_dir, *events) == measured(whole, *events)
        losses = [
            [one["loss"] for one in read_records(path, "train")] for path in (self.run_dir, whole)
        ]
        return len(losses[0]) == len(losses[1]) and all(
            abs(found / expected - 1) < 1e-4 for found, expected in zip(*losses, strict=True)
        )

    def _size(self) -> int:
        return self.hosts.num_hosts if self.same_size else self.draw.randint(2, 4)

    def _start(self, hooks: dict[int, Hook], size: int) -> Ranks:
        shutil.rmtree(self.logs, ignore_errors=True)
        return start_on_hosts(self.hosts, self.arguments, self.logs, hooks, size)

    def _break(self) -> Attempt | None:
        """Start the run with a fault in it; None where it ended before that struck."""
        draw, size = self.draw, self._size()
        kind, victim = draw.choice(KINDS), draw.randrange(size)
        first = max(checkpoint_steps(self.run_dir), default=0) if self.run_dir.exists() else 0
        place = "checkpoint" if kind == "kill during a save" else draw.choice(PLACES)
        moment = Moment(place, first + draw.randint(1, 15))
        struck = self.folder / "struck"
        struck.unlink(missing_ok=True)
        longest = 0.3 if kind == "kill during a save" else 0.1
        strike = partial(_later, longest * draw.random(), struck, self._action(kind, victim))
        if kind == "a worker hangs":
            strike = partial(_now, struck, partial(time.sleep, 1000))
        before = self._whole_checkpoints()
        ranks = self._start({victim: at_moment(moment, strike)}, size)
        stands_still = kind == "stop a worker (SIGSTOP)"
        hung = self._wait(ranks, victim if stands_still else None)
        ended_at = time.time()
        statuses = [process.exitcode for process in ranks.processes]
        if stands_still:
            ranks.processes[victim].kill()
            ranks.processes[victim].join()
        self._heal(victim)
        self.done = all(status == 0 for status in statuses)
        if not struck.exists():
            return None
        at, step = struck.read_text().split()
        last = max((one["step"] for one in read_records(self.run_dir, "train")), default=0)
        kept = max(checkpoint_steps(self.run_dir), default=0)
        return Attempt(
            kind=kind,
            place=place,
            step=int(step),
            victim=victim,
            world_size=size,
            outcome="hung" if hung else self._outcome(ranks, victim, kind),
            statuses=statuses,
            seconds=round(ended_at - float(at), 2),
            steps_again=0 if self.done else last - kept,
            checkpoints_lost=self._lost(before),
        )

    def _action(self, kind: str, victim: int) -> Hook:
        match kind:
            case "stop a worker (SIGSTOP)":
                return stop_self
            case "cut a cable":
                return partial(self.hosts.pull_cable, victim % self.hosts.num_hosts)
            case "cut a cable for 2 s":
                return partial(_cut_for_a_while, self.hosts, victim % self.hosts.num_hosts)
            case "full disk":
                return partial(_fill, self.disk / "filler")
            case _:
                return kill_self

    def _heal(self, victim: int) -> None:
        self.hosts.plug_in(victim % self.hosts.num_hosts)
        (self.disk / "filler").unlink(missing_ok=True)

    def _wait(self, ranks: Ranks, stopped: int | None, seconds: float = HANG_SECONDS) -> bool:
        """Wait for all ranks, but one that stands still; return whether another hung."""
        others = [one for rank, one in enumerate(ranks.processes) if rank != stopped]
        deadline = time.monotonic() + seconds
        while any(one.is_alive() for one in others) and time.monotonic() < deadline:
            time.sleep(0.05)
        hung = [one for one in others if one.is_alive()]
        for one in hung:
            one.kill()
            one.join()
        return bool(hung)

    def _outcome(self, ranks: Ranks, victim: int, kind: str) -> str:
        if self.done:
            return "went on"
        texts = [
            (self.logs / f"{rank}.stderr").read_text()
            for rank in range(len(ranks.processes))
            if rank != victim or kind == "full disk"
        ]
        name = "No space left" if kind == "full disk" else f"rank {victim} "
        if kind.startswith("cut a cable") and victim == 0:
            name = "rank "
        lines = [(text.splitlines() or [""])[-1] for text in texts]
        told = ("training failed: ", "error: ")
        named = all(name in line and any(word in line for word in told) for line in lines)
        if not named:
            print("\n".join(f"     {line}" for line in lines), flush=True)
        return "ended, named" if named else "ended"

    def _whole_checkpoints(self) -> set[int]:
        return set(checkpoint_steps(self.run_dir)) if self.run_dir.exists() else set()

    def _lost(self, before: set[int]) -> int:
        """Return 1 where the newest checkpoint of before is neither whole nor replaced."""
        if not before:
            return 0
        try:
            verify(self.run_dir, lambda _: None)
        except LightRNNError as error:
            print(f"     {error}", flush=True)
            return 1
        return int(max(self._whole_checkpoints(), default=0) < max(before))


# What strikes, in the process of a rank.


def _now(struck: Path, action: Hook) -> None:
    struck.write_text(f"{time.time()} {os.environ[AT_STEP]}")
    action()


def _later(seconds: float, struck: Path, action: Hook) -> None:
    threading.Timer(seconds, _now, (struck, action)).start()


def _cut_for_a_while(hosts: Hosts, host: int) -> None:
    hosts.pull_cable(host)
    time.sleep(SHORT_CUT_SECONDS)
    hosts.plug_in(host)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**16)):
                pass
        except OSError:
            os.fsync(file.fileno())
