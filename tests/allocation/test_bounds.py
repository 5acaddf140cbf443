"""The lower bound holds for every table, and is reached where cells are no bottleneck."""

import numpy as np
import pytest
from allocation_instances import clustered_costs, small_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.costs import CellCosts, DenseCosts
from allocation.solvers import solve_exact, transport_lower_bound
from lightrnn.table import WordTable


def optimum(costs: CellCosts) -> float:
    start = WordTable.random(costs.num_words, costs.num_rows, costs.num_columns, seed=0)
    return solve_exact(costs, start, lambda _: None).objective


@settings(deadline=None, max_examples=200)
@given(small_costs())
def test_the_bound_is_never_above_the_optimum(costs: CellCosts) -> None:
    # Without a tolerance: rounding is taken off the bound.
    assert transport_lower_bound(costs) <= optimum(costs)


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
    counts = random.zipf(1.3, size=(num_words, 1)).clip(max=10**6) - 1
    costs = DenseCosts(
        scale * counts * random.normal(size=(num_words, 9)) + offset,
        scale * counts * random.normal(size=(num_words, 10)) - offset,
    )
    assert transport_lower_bound(costs) <= optimum(costs)


def test_the_bound_is_the_optimum_where_every_word_has_a_cell_of_its_own() -> None:
    random = np.random.default_rng(0)
    liked = WordTable.random(60, 8, 8, seed=1)
    row_loss = random.uniform(1.0, 2.0, size=(60, 8))
    column_loss = random.uniform(1.0, 2.0, size=(60, 8))
    row_loss[np.arange(60), liked.row_of_word] = 0.25
    column_loss[np.arange(60), liked.column_of_word] = 0.5
    costs = DenseCosts(row_loss, column_loss)
    assert transport_lower_bound(costs) == costs.objective(liked) == 60 * 0.75


@pytest.mark.parametrize("num_words", [300, 324])
@pytest.mark.parametrize("side", ["row", "column"])
def test_the_bound_is_near_the_optimum_where_only_one_side_is_a_bottleneck(
    num_words: int, side: str
) -> None:
    clustered = clustered_costs(num_words, 18, 18)
    nothing = np.zeros((num_words, 18))
    costs = (
        DenseCosts(clustered.row_loss_VR, nothing)
        if side == "row"
        else DenseCosts(nothing, clustered.column_loss_VC)
    )
    best = optimum(costs)
    without_prices = float(clustered.row_loss_VR.min(axis=1).sum())
    if side == "column":
        without_prices = float(clustered.column_loss_VC.min(axis=1).sum())
    bound = transport_lower_bound(costs)
    assert bound <= best
    # Prices close all but a thousandth of what the words' own favourites leave open.
    assert best - bound < 1e-3 * (best - without_prices)


def test_a_constant_a_word_moves_the_bound_by_itself() -> None:
    costs = clustered_costs(200, 15, 15)
    constants = np.random.default_rng(0).normal(size=(200, 1))
    moved = DenseCosts(costs.row_loss_VR + constants, costs.column_loss_VC)
    expected = transport_lower_bound(costs) + constants.sum()
    assert transport_lower_bound(moved) == pytest.approx(expected, rel=1e-6)


def test_the_bound_is_deterministic() -> None:
    costs = clustered_costs(200, 15, 15)
    assert transport_lower_bound(costs) == transport_lower_bound(costs)
