"""Ranks that are killed, stopped, hang or fail alone: named on all others, and all end."""

import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from launcher_runs import Ended, Hook, checkpoint_steps, run, send_signal_at_step, start

from launcher.processes import warn_of_restarts
from launcher.watch.places import Heard, Report, find_lost

Options = Callable[..., list[str]]

STEP = 57


def report(rank: int, place: str, count: int, idle_seconds: float = 0.0) -> Report:
    return Report(rank, f"mn{rank + 1}", place, STEP, count, idle_seconds, 30.0)


def heard(*reports: Report, silent_seconds: float = 1.0) -> list[Heard]:
    return [Heard(one, 100.0 - silent_seconds) for one in reports]


def test_all_is_well() -> None:
    reports = [report(0, "gradient all-reduce", 9, 25), report(1, "forward", 8, 25)]
    assert find_lost(heard(*reports), 20.0, 100.0) is None
    assert find_lost([], 20.0, 100.0) is None


def test_a_rank_that_is_behind_for_too_long_hangs() -> None:
    reports = [
        *(report(rank, "gradient all-reduce", 9, 40) for rank in (0, 2, 3)),
        report(1, "forward", 8, 40),
    ]
    assert find_lost(heard(*reports), 20.0, 100.0) == (
        "rank 1 on host mn2 has been at step 57 in forward for 41 s, where the others wait for it "
        "in gradient all-reduce (the limit is 30 s)"
    )


def test_ranks_may_wait_for_one_that_goes_on() -> None:
    reports = [report(0, "evaluation", 9, 300), report(1, "evaluation", 9, 3)]
    assert find_lost(heard(*reports), 20.0, 100.0) is None


def test_all_ranks_at_one_place_for_too_long_hang() -> None:
    reports = [report(rank, "gradient all-reduce", 9, 40) for rank in range(6)]
    told = find_lost(heard(*reports), 20.0, 100.0)
    assert told is not None
    assert told.startswith("rank 0 on host mn1 has been at step 57 in gradient all-reduce for 41 s")
    assert "; and 2 more" in told


def test_a_silent_rank_is_lost_wherever_it_is() -> None:
    waiting = report(0, "reallocation: solve", 9, 40)
    silent = Heard(report(1, "reallocation: solve", 9), 75.0)
    assert find_lost([*heard(waiting), silent], 20.0, 100.0) == (
        "rank 1 on host mn2 has not been heard of for 25 s, last seen at step 57 in "
        "reallocation: solve"
    )


# What a rank may be made to do.


def at_step(step: int, action: Hook) -> Hook:
    """Let the rank do something when it begins a step."""
    return partial(_at_step, step, action)


def _at_step(step: int, action: Hook) -> None:
    from launcher import train

    learning_rate = train.learning_rate

    def acting(at: int, *arguments: Any) -> float:
        if at == step:
            action()
        return learning_rate(at, *arguments)

    train.learning_rate = acting


def fail() -> None:
    raise OSError("the disk is gone")


def hang() -> None:
    time.sleep(1000)


LIMITS = {"processes__start_timeout_minutes": 1, "processes__step_timeout_seconds": 6}


def run_with(hooks: dict[int, Hook], tiny: Options, folder: Path) -> Ended:
    arguments = tiny(folder / "run", checkpoint__every_steps=5, **LIMITS)
    return run("train", arguments, folder / "logs", 3, hooks)


def last_line(text: str) -> str:
    return text.splitlines()[-1]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_rank_is_named_by_all_others(rank: int, tiny: Options, tmp_path: Path) -> None:
    ended = run_with({rank: send_signal_at_step(signal.SIGKILL, 12)}, tiny, tmp_path)
    for other in {0, 1, 2} - {rank}:
        assert ended.statuses[other] == 1, ended.errors[other]
        line = last_line(ended.errors[other])
        assert f"training failed: rank {rank} on host {os.uname().nodename} has ended " in line
        assert "last seen at step" in line
        assert "Traceback" not in ended.errors[other]
    assert ended.statuses[rank] == -signal.SIGKILL
    assert checkpoint_steps(tmp_path / "run") == [5, 10]


def test_a_rank_that_hangs_is_named_by_all(tiny: Options, tmp_path: Path) -> None:
    ended = run_with({1: at_step(12, hang)}, tiny, tmp_path)
    for text in ended.check(1).errors:
        assert "training failed: rank 1 on host" in last_line(text)
        assert "has been at step 12 in data for" in last_line(text)
        assert "where the others wait for it in gradient all-reduce" in last_line(text)
        assert "Traceback" not in text


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_is_named_by_all_others(rank: int, tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", **LIMITS)
    hooks = {rank: send_signal_at_step(signal.SIGSTOP, 12)}
    ranks = start("train", arguments, tmp_path / "logs", 3, hooks)
    others = [process for other, process in enumerate(ranks.processes) if other != rank]
    for process in others:
        process.join(60)
        assert process.exitcode == 1
    os.kill(ranks.processes[rank].pid or 0, signal.SIGCONT)
    ended = ranks.wait().check(1)
    for other in {0, 1, 2} - {rank}:
        line = last_line(ended.errors[other])
        assert f"training failed: rank {rank} on host" in line
        assert "has not been heard of for" in line


def test_a_rank_that_fails_alone_is_named_by_all(tiny: Options, tmp_path: Path) -> None:
    ended = run_with({2: at_step(12, fail)}, tiny, tmp_path)
    for text in ended.check(1).errors:
        line = last_line(text)
        assert "training failed: rank 2 on host" in line
        assert "failed at step 12 in data: OSError: the disk is gone" in line
    assert "Traceback" in ended.errors[2]
    assert "Traceback" not in ended.errors[0] + ended.errors[1]


@pytest.mark.parametrize(
    ("restarts", "shared", "warned"),
    [("3", "True", True), ("3", "False", False), ("0", "True", False)],
)
def test_restarts_that_would_fail_are_warned_of(
    restarts: str, shared: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log = logging.getLogger("lightrnn")
    log.addHandler(caplog.handler)
    environment = {"TORCHELASTIC_MAX_RESTARTS": restarts, "TORCHELASTIC_USE_AGENT_STORE": shared}
    warn_of_restarts(environment)
    log.removeHandler(caplog.handler)
    assert ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in caplog.text) == warned
