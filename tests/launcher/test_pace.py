"""A rank that works slower than the others shows."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher_runs import read_records, run

from launcher.console import describe
from launcher.pace import Pace, paces_of_ranks

Options = Callable[..., list[str]]


def test_mean_and_most_of_all_ranks() -> None:
    paces_W3 = torch.tensor([[1.0, 0.25, 0.0], [1.5, 0.75, 0.5]], dtype=torch.float64)
    assert paces_of_ranks(paces_W3) == {
        "step_seconds_mean": 1.25,
        "step_seconds_max": 1.5,
        "own_seconds_mean": 0.5,
        "own_seconds_max": 0.75,
        "data_wait_seconds_mean": 0.25,
        "data_wait_seconds_max": 0.5,
        "slowest_rank": 1,
    }


def test_a_step_of_several() -> None:
    pace = Pace(
        torch.device("cpu"), steps=4, step_seconds=8, data_wait_seconds=1, forward_seconds=2
    )
    assert pace.a_step().tolist() == [2.0, 0.75, 0.25]


def be_slow() -> None:
    """Let the rank's forward passes take longer."""
    from lightrnn import LightRNN

    forward = LightRNN.forward

    def slow(model: LightRNN, *arguments: Any) -> Any:
        time.sleep(1)
        return forward(model, *arguments)

    LightRNN.forward = slow  # type: ignore[method-assign]


def test_a_slow_rank_is_in_the_metrics(tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(
        tmp_path / "run", train__max_steps=3, train__epochs=9, train__eval_every_epochs=9
    )
    run("train", arguments, tmp_path / "logs", 3, {1: be_slow}).check(75)
    records = read_records(tmp_path / "run", "train")
    assert [record["slowest_rank"] for record in records] == [1, 1, 1]
    for record in records:
        assert record["own_seconds_max"] >= 1
        assert record["step_seconds_max"] >= record["step_seconds_mean"] > 0


@pytest.mark.parametrize(("most", "told"), [(0.31, True), (0.29, False)])
def test_the_console_tells_of_a_slow_rank(most: float, told: bool) -> None:
    record = {
        "event": "train",
        "epoch": 1.0,
        "step": 5,
        "total_steps": 10,
        "loss": 5.0,
        "perplexity": 148.4,
        "tokens_per_second": 1000.0,
        "mfu": 0.5,
        "seconds_left": 3.0,
        "step_seconds_mean": 1.0,
        "own_seconds_mean": 0.2,
        "own_seconds_max": most,
        "slowest_rank": 3,
    }
    (line,) = describe(record)
    assert ("rank 3 is slow: its own work takes 0.310 s a step" in line) == told
