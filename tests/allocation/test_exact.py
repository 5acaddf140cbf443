"""The exact solver finds the optimum, and prices that prove it."""

import numpy as np
import pytest
from allocation_instances import (
    brute_force_objective,
    clustered_costs,
    magnitude,
    random_start,
    silent,
    small_costs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.costs import CellCosts, DenseCosts
from allocation.errors import AllocationError
from allocation.solvers import solve_exact


@settings(deadline=None, max_examples=200)
@given(small_costs(), st.integers(0, 100))
def test_exact_is_the_best_of_all_tables(costs: CellCosts, seed: int) -> None:
    solution = solve_exact(costs, random_start(costs, seed), silent)
    tolerance = 1e-12 * magnitude(costs)
    assert solution.objective == pytest.approx(brute_force_objective(costs), rel=0, abs=tolerance)
    assert solution.objective == costs.objective(solution.table)
    assert 0.0 <= solution.gap <= tolerance


@pytest.mark.parametrize("side", ["row", "column"])
def test_exact_sees_small_differences_beside_large_constants(side: str) -> None:
    random = np.random.default_rng(0)
    row_loss, column_loss = random.integers(0, 40, size=(2, 60, 8)).astype(np.float64)
    plain = DenseCosts(row_loss, column_loss)
    # Even numbers are all that float64 tells apart at 2**53.
    large = 2.0**53 + 2 * row_loss, 2.0**53 + 2 * column_loss
    shifted = (
        DenseCosts(large[0], 2 * column_loss)
        if side == "row"
        else DenseCosts(2 * row_loss, large[1])
    )
    start = random_start(plain)
    best = solve_exact(plain, start, silent).objective
    assert plain.objective(solve_exact(shifted, start, silent).table) == best


def test_exact_refuses_what_would_not_fit_into_memory() -> None:
    costs = DenseCosts(np.zeros((4200, 65)), np.zeros((4200, 65)))
    with pytest.raises(AllocationError, match=r"0\.1 GiB .* set allocation\.solver to"):
        solve_exact(costs, random_start(costs), silent)


@pytest.mark.parametrize(("num_words", "num_rows", "num_columns"), [(900, 30, 30), (700, 20, 36)])
def test_the_prices_prove_the_optimum(num_words: int, num_rows: int, num_columns: int) -> None:
    costs = clustered_costs(num_words, num_rows, num_columns)
    solution = solve_exact(costs, random_start(costs), silent)
    assert 0 <= solution.gap < 1e-12 * solution.objective
    # Every word is content with its cell, and free cells cost nothing.
    prices_RC = solution.prices_RC
    by_row, by_column = costs.losses(slice(None))
    paid = by_row[:, :, None] + by_column[:, None, :] + prices_RC
    table = solution.table
    own = paid[np.arange(num_words), table.row_of_word, table.column_of_word]
    assert own == pytest.approx(paid.min(axis=(1, 2)), rel=1e-12)
    assert not prices_RC[table.word_at_cell < 0].any()
