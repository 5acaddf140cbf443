"""Whoever is asked to stop, and however, all ranks stop at the same step with a checkpoint."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from launcher_runs import STOPPED, checkpoint_steps, run

Options = Callable[..., list[str]]


def at_step(step: int, act: Callable[[], None]) -> None:
    """Let this rank do something when it begins a step."""
    from launcher import train

    learning_rate = train.learning_rate

    def acting(at: int, *arguments: Any) -> float:
        if at == step:
            act()
        return learning_rate(at, *arguments)

    train.learning_rate = acting


def send(*numbers: signal.Signals) -> None:
    """Send signals to this process, each when the one before has arrived."""
    for number in numbers:
        os.kill(os.getpid(), number)
        time.sleep(0.05)


def be_in_a_job(seconds_left: float) -> None:
    """Give this rank the variables of a SLURM job that began an hour before its end."""
    end = time.time() + seconds_left
    times = {"START": end - 3600, "END": end}
    os.environ.update({f"SLURM_JOB_{name}_TIME": str(at) for name, at in times.items()})
    os.environ["SLURM_JOB_ID"] = "7"


def leave_status_in(path: Path) -> None:
    os.environ["LIGHTRNN_STATUS_FILE"] = str(path)


@pytest.mark.parametrize(
    "numbers",
    [
        (signal.SIGINT,),
        (signal.SIGUSR1, signal.SIGUSR1),
        (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT),
    ],
)
def test_signals_on_one_rank_stop_all(
    numbers: tuple[signal.Signals, ...], tiny: Options, tmp_path: Path
) -> None:
    hooks = {1: partial(at_step, 7, partial(send, *numbers))}
    run("train", tiny(tmp_path / "run"), tmp_path / "logs", 2, hooks).check(STOPPED)
    # Received in the step after 7, agreed on in the next.
    assert checkpoint_steps(tmp_path / "run") == [9]


def test_a_second_interrupt_ends_at_once(tiny: Options, tmp_path: Path) -> None:
    hooks = {0: partial(at_step, 7, partial(send, signal.SIGINT, signal.SIGINT))}
    run("train", tiny(tmp_path / "run"), tmp_path / "logs", 1, hooks).check(130)
    assert checkpoint_steps(tmp_path / "run") == []


def test_the_end_of_the_time_stops_all_ranks(tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", train__epochs=1000, checkpoint__seconds_before_end=600)
    hooks = {0: partial(be_in_a_job, 603)}
    ended = run("train", arguments, tmp_path / "logs", 2, hooks).check(STOPPED)
    assert "the job's time is nearly over" in ended.errors[0]
    assert len(checkpoint_steps(tmp_path / "run")) >= 1


def test_a_margin_beyond_the_time_is_refused(tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", checkpoint__seconds_before_end=3600)
    hooks = {0: partial(be_in_a_job, 3000)}
    ended = run("train", arguments, tmp_path / "logs", 2, hooks)
    ended.check_one_line("checkpoint.seconds_before_end=3600", "time limit of 3600 seconds")


def test_the_status_is_left_in_a_file(tiny: Options, tmp_path: Path) -> None:
    """The script of a job reads it, for launchers tell other statuses than their workers'."""
    hook = partial(leave_status_in, tmp_path / "status")
    for arguments, status in (
        (tiny(tmp_path / "run", train__max_steps=3), STOPPED),
        (tiny(tmp_path / "run", train__epochs=0.1), 0),
        (tiny(tmp_path / "other", data__corpus="nowhere"), 2),
    ):
        run("train", arguments, tmp_path / "logs", 2, {0: hook, 1: hook}).check(status)
        assert (tmp_path / "status").read_text() == f"{status}\n"
        (tmp_path / "status").unlink()
