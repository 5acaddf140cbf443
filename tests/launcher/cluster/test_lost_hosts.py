"""Four hosts, of which one is cut off or loses its process wherever it hurts."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cluster_runs import Moment, at_moment, kill_self, start_on_hosts
from hosts import Hosts, why_no_hosts
from launcher_runs import assert_same_tensors, checkpoint_of, measured

from launcher.verify import verify

Options = Callable[..., list[str]]

pytestmark = pytest.mark.skipif(bool(why_no_hosts()), reason=why_no_hosts())

STEP_SECONDS = 6
CHECKPOINTS = 10
LAST_STEP = 42
EVENTS = ("train", "valid", "reallocation", "end")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(4) as hosts:
        yield hosts


@pytest.fixture
def settings(tiny: Options) -> Options:
    """Return the options of a run of 42 steps, with a reallocation after step 30."""
    return partial(
        tiny,
        train__epochs=0.7,
        checkpoint__every_steps=CHECKPOINTS,
        processes__start_timeout_minutes=1,
        processes__step_timeout_seconds=STEP_SECONDS,
    )


FAULTS = [
    (Moment("gradient all-reduce", 5), 3),
    (Moment("forward", 15), 0),
    (Moment("checkpoint", 20), 2),
    (Moment("reallocation: statistics", 30), 3),
    (Moment("reallocation: exchange", 30), 0),
    (Moment("reallocation: solve", 30), 1),
    (Moment("reallocation: certificate", 30), 3),
    (Moment("reallocation: commit", 30), 2),
    (Moment("evaluation", 31), 0),
]


def test_cables_pulled_in_every_place_cost_nothing_but_time(
    hosts: Hosts, settings: Options, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start_on_hosts(hosts, settings(whole), tmp_path / "logs").wait().check()
    for number, (moment, victim) in enumerate(FAULTS):
        pull = {victim: at_moment(moment, partial(hosts.pull_cable, victim))}
        ranks = start_on_hosts(hosts, settings(cut), tmp_path / f"logs-{number}", pull)
        ended = ranks.wait().check(1)
        hosts.plug_in(victim)
        for rank, text in enumerate(ended.errors):
            line = text.splitlines()[-1]
            assert "training failed: rank" in line, (moment, text)
            assert " on host h" in line
            assert "Traceback" not in text
            if victim not in (0, rank):
                assert f"rank {victim} on host h{victim + 1} has not been heard of" in line
        verify(cut, lambda _: None)
    start_on_hosts(hosts, settings(cut), tmp_path / "logs-end").wait().check()
    assert measured(cut, *EVENTS) == measured(whole, *EVENTS)
    assert_same_tensors(checkpoint_of(cut, LAST_STEP), checkpoint_of(whole, LAST_STEP))


@pytest.mark.parametrize("victim", [0, 3])
def test_a_worker_that_is_killed(
    victim: int, hosts: Hosts, settings: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    kill = {victim: at_moment(Moment("reallocation: solve", 30), kill_self)}
    ended = start_on_hosts(hosts, settings(run_dir), tmp_path / "logs", kill).wait()
    for rank in {0, 1, 2, 3} - {victim}:
        assert ended.statuses[rank] == 1
        line = ended.errors[rank].splitlines()[-1]
        assert f"rank {victim} on host h{victim + 1} has ended without a word" in line
    verify(run_dir, lambda _: None)
