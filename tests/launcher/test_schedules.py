"""Learning rate, and the steps at which something is due."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from launcher.optimization import learning_rate, make_optimizer
from launcher.rounds import Rounds, is_multiple, steps_at
from launcher.settings import AllocationSettings, TrainSettings

TOTAL = 200


def rate(step: int, schedule: str, **settings: float) -> float:
    train = TrainSettings(
        learning_rate=0.5,
        warmup_steps=10,
        decay_from=0.5,
        final_learning_rate=0.02,
        schedule=schedule,  # type: ignore[arg-type]
    )
    return learning_rate(step, TOTAL, TrainSettings(**{**vars_of(train), **settings}))


def vars_of(settings: TrainSettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_rises_and_stays(schedule: str) -> None:
    assert rate(0, schedule) == pytest.approx(0.05)
    assert rate(4, schedule) == pytest.approx(0.25)
    for step in (9, 10, 50, 99, 100):
        assert rate(step, schedule) == pytest.approx(0.5)
    assert rate(0, schedule, warmup_steps=0) == 0.5


def test_the_rate_falls_as_the_schedule_says() -> None:
    last = 0.5 * 0.02
    assert rate(199, "constant") == 0.5
    assert rate(150, "linear") == pytest.approx((0.5 + last) / 2)
    assert rate(150, "cosine") == pytest.approx((0.5 + last) / 2)
    quarter = last + (0.5 - last) * 0.5 * (1 + math.cos(math.pi / 4))
    assert rate(125, "cosine") == pytest.approx(quarter)
    assert rate(125, "linear") == pytest.approx(0.5 - (0.5 - last) / 4)
    for schedule in ("linear", "cosine"):
        rates = [rate(step, schedule) for step in range(100, 200)]
        assert rates == sorted(rates, reverse=True)
        assert last <= rates[-1] < last + 0.01
        assert rate(200, schedule) == pytest.approx(last)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_at_the_edges_of_its_settings(schedule: str) -> None:
    assert rate(199, schedule, decay_from=1.0, warmup_steps=0) == 0.5
    assert rate(0, schedule, decay_from=0.0, warmup_steps=0) == 0.5
    assert rate(199, schedule, final_learning_rate=1.0) == pytest.approx(0.5)
    assert learning_rate(0, 1, TrainSettings(warmup_steps=0)) == 2e-3


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_the_optimizer_asked_for(name: str, kind: type) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    settings = TrainSettings(optimizer=name, learning_rate=0.3, weight_decay=0.1)  # type: ignore[arg-type]
    optimizer = make_optimizer([parameter], settings)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_steps_at_epochs() -> None:
    assert steps_at((0.5, 1.0, 2.25), 60) == {30, 60, 135}
    assert steps_at((0.001,), 60) == {1}
    assert steps_at((), 60) == frozenset()
    assert steps_at((1 / 3,), 10) == {3}


@given(
    epochs=st.floats(0.01, 5, allow_nan=False),
    steps_per_epoch=st.integers(1, 200),
    num_multiples=st.integers(1, 30),
)
@example(epochs=0.8, steps_per_epoch=17, num_multiples=5)
def test_each_multiple_is_hit_once(epochs: float, steps_per_epoch: int, num_multiples: int) -> None:
    period = max(1.0, epochs * steps_per_epoch)
    last = math.ceil(period * num_multiples)
    hits = [step for step in range(1, last + 1) if is_multiple(step, epochs, steps_per_epoch)]
    assert abs(len(hits) - num_multiples) <= (1 if last > period * num_multiples else 0)
    for number, step in enumerate(hits, 1):
        # The first step at or after the multiple, up to the rounding of a quotient.
        assert period * number - 1e-6 <= step < period * number + 1 + 1e-6


@given(steps_per_epoch=st.integers(1, 10_000), epoch=st.integers(1, 1000))
def test_whole_epochs_end_at_their_last_step(steps_per_epoch: int, epoch: int) -> None:
    step = epoch * steps_per_epoch
    assert is_multiple(step, 1.0, steps_per_epoch)
    assert steps_per_epoch == 1 or not is_multiple(step - 1, 1.0, steps_per_epoch)
    assert steps_per_epoch == 1 or not is_multiple(step + 1, 1.0, steps_per_epoch)


def test_a_plateau_calls_for_a_reallocation() -> None:
    settings = AllocationSettings(when="plateau", min_improvement=0.05, max_rounds=2)

    rounds, due = Rounds().after_validation(100.0, settings)
    assert not due  # nothing to compare with
    rounds, due = rounds.after_validation(94.0, settings)
    assert not due  # fell by 6 %
    rounds, due = rounds.after_validation(90.0, settings)
    assert due  # fell by 4 % only
    rounds = rounds.after_reallocation()
    assert rounds == Rounds(done=1)
    rounds, due = rounds.after_validation(120.0, settings)
    assert not due  # a new round, nothing to compare with
    rounds, due = rounds.after_validation(121.0, settings)
    assert due
    rounds = rounds.after_reallocation()
    for perplexity in (120.0, 121.0, 122.0):
        rounds, due = rounds.after_validation(perplexity, settings)
        assert not due  # two rounds were all that was asked for


@pytest.mark.parametrize("when", ["epochs", "never"])
def test_other_schedules_do_not_ask_validation(when: str) -> None:
    settings = AllocationSettings(when=when, min_improvement=1.0)  # type: ignore[arg-type]
    rounds, _ = Rounds().after_validation(100.0, settings)
    _, due = rounds.after_validation(200.0, settings)
    assert not due
