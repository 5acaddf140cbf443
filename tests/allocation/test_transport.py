"""Prices by transport bound every table, tightly where cells are no bottleneck."""

import numpy as np
import pytest
from allocation_instances import clustered_costs, magnitude, random_start, silent, small_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.certificate import lower_bound
from allocation.costs import CellCosts, DenseCosts
from allocation.solvers import solve_exact, transport_prices
from allocation.solvers.transport import MAX_CHEAP_LOSSES, cheap_prices
from lightrnn.table import WordTable


def optimum(costs: CellCosts) -> float:
    return solve_exact(costs, random_start(costs), silent).objective


def bound_by_transport(costs: CellCosts) -> float:
    return lower_bound(costs, transport_prices(costs))


@settings(deadline=None, max_examples=200)
@given(small_costs())
def test_the_bound_is_never_above_the_optimum(costs: CellCosts) -> None:
    # The bound takes its rounding off; the sum of the optimum has its own.
    assert bound_by_transport(costs) <= optimum(costs) + 1e-15 * magnitude(costs)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-9, 1.0, 1e9]),
    offset=st.sampled_from([0.0, -1e3, 1e6]),
    num_words=st.integers(60, 90),
)
def test_the_bound_holds_at_any_scale(
    seed: int, scale: float, offset: float, num_words: int
) -> None:
    random = np.random.default_rng(seed)
    counts = random.zipf(1.3, size=num_words).clip(max=10**6) - 1
    costs = DenseCosts(
        scale * counts[:, None] * random.normal(size=(num_words, 9)) + offset,
        scale * counts[:, None] * random.normal(size=(num_words, 10)) - offset,
        counts,
    )
    assert bound_by_transport(costs) <= optimum(costs)


def test_the_bound_is_the_optimum_where_every_word_has_a_cell_of_its_own() -> None:
    random = np.random.default_rng(0)
    liked = WordTable.random(60, 8, 8, seed=1)
    row_loss = random.uniform(1.0, 2.0, size=(60, 8))
    column_loss = random.uniform(1.0, 2.0, size=(60, 8))
    row_loss[np.arange(60), liked.row_of_word] = 0.25
    column_loss[np.arange(60), liked.column_of_word] = 0.5
    costs = DenseCosts(row_loss, column_loss)
    assert costs.objective(liked) == 60 * 0.75
    assert bound_by_transport(costs) == pytest.approx(60 * 0.75, rel=1e-12)


@pytest.mark.parametrize("num_words", [300, 324])
@pytest.mark.parametrize("side", ["row", "column"])
def test_the_bound_is_near_the_optimum_where_only_one_side_is_a_bottleneck(
    num_words: int, side: str
) -> None:
    clustered = clustered_costs(num_words, 18, 18)
    nothing = np.zeros((num_words, 18))
    counts = clustered.counts_V
    costs = (
        DenseCosts(clustered.row_loss_VR, nothing, counts)
        if side == "row"
        else DenseCosts(nothing, clustered.column_loss_VC, counts)
    )
    best = optimum(costs)
    without_prices = float(clustered.row_loss_VR.min(axis=1).sum())
    if side == "column":
        without_prices = float(clustered.column_loss_VC.min(axis=1).sum())
    bound = bound_by_transport(costs)
    assert bound <= best
    # Prices close all but a thousandth of what the words' own favourites leave open.
    assert best - bound < 1e-3 * (best - without_prices)


def test_a_constant_a_word_moves_the_bound_by_itself() -> None:
    costs = clustered_costs(200, 15, 15)
    constants = np.random.default_rng(0).normal(size=(200, 1))
    moved = DenseCosts(costs.row_loss_VR + constants, costs.column_loss_VC)
    expected = bound_by_transport(costs) + constants.sum()
    assert bound_by_transport(moved) == pytest.approx(expected, rel=1e-6)


def test_prices_are_those_of_rows_and_columns_together() -> None:
    prices_RC = transport_prices(clustered_costs(200, 15, 15))
    assert (prices_RC >= 0).all()
    assert prices_RC.min() == 0.0 < prices_RC.max()
    row_prices, column_prices = prices_RC.min(axis=1), prices_RC.min(axis=0)
    assert prices_RC == pytest.approx(row_prices[:, None] + column_prices)


def test_prices_are_deterministic() -> None:
    costs = clustered_costs(200, 15, 15)
    assert np.array_equal(transport_prices(costs), transport_prices(costs))


def test_large_problems_have_no_cheap_prices() -> None:
    costs = clustered_costs(200, 15, 15)
    assert np.array_equal(cheap_prices(costs), transport_prices(costs))
    num_words = MAX_CHEAP_LOSSES // 1000
    losses = np.broadcast_to(np.arange(1001.0), (num_words, 1001))
    large = DenseCosts(losses[:, :700], losses[:, :700])
    assert cheap_prices(large).shape == (700, 700)
    assert not cheap_prices(large).any()
