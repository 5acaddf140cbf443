"""The alternating solver comes near the optimum by exact assignments of parts."""

import numpy as np
import pytest
from allocation_instances import (
    clustered_costs,
    magnitude,
    random_start,
    silent,
    small_costs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.costs import CellCosts, DenseCosts
from allocation.solvers import solve_alternating, solve_exact
from lightrnn.table import WordTable


@settings(deadline=None, max_examples=100)
@given(small_costs(), st.integers(0, 100))
def test_alternating_lies_between_the_optimum_and_the_start(costs: CellCosts, seed: int) -> None:
    start = random_start(costs, seed)
    solution = solve_alternating(costs, start, silent)
    assert solution.objective == costs.objective(solution.table)
    assert solution.objective <= costs.objective(start)
    assert solution.lower_bound <= solution.objective
    # So small a table is a single band.
    best = solve_exact(costs, start, silent).objective
    assert solution.objective == pytest.approx(best, rel=0, abs=1e-12 * magnitude(costs))


@pytest.mark.parametrize(("num_words", "num_rows", "num_columns"), [(880, 30, 30), (700, 20, 36)])
def test_alternating_comes_near_the_optimum_of_clustered_words(
    num_words: int, num_rows: int, num_columns: int
) -> None:
    costs = clustered_costs(num_words, num_rows, num_columns)
    start = random_start(costs)
    best = solve_exact(costs, start, silent).objective
    solution = solve_alternating(costs, start, silent)
    start_objective = costs.objective(start)
    assert best <= solution.objective * (1 + 1e-12)
    assert solution.objective - best < 0.01 * (start_objective - best)
    assert solution.lower_bound <= best
    assert 0 <= solution.gap < start_objective - best


def test_bands_gain_what_single_lines_cannot() -> None:
    costs = clustered_costs(880, 30, 30)
    lines_only = solve_alternating(costs, random_start(costs), silent, max_sweeps=0)
    solution = solve_alternating(costs, random_start(costs), silent)
    assert solution.objective < lines_only.objective


def test_alternating_finds_the_table_that_every_word_wants() -> None:
    num_words, num_rows, num_columns = 2000, 45, 46
    hidden = WordTable.random(num_words, num_rows, num_columns, seed=3)
    counts = np.arange(num_words, 0, -1.0)[:, None]
    costs = DenseCosts(
        counts * abs(np.arange(num_rows) - hidden.row_of_word[:, None]),
        counts * abs(np.arange(num_columns) - hidden.column_of_word[:, None]),
    )
    mirrored_columns = num_columns - 1 - hidden.column_of_word
    mirrored = WordTable(hidden.row_of_word, mirrored_columns, num_rows, num_columns)
    solution = solve_alternating(costs, mirrored, silent)
    assert solution.table == hidden
    assert solution.objective == 0.0
    assert solution.lower_bound == pytest.approx(0.0, abs=1e-9)
    start = random_start(costs)
    assert solve_alternating(costs, start, silent).objective < 1e-3 * costs.objective(start)


def test_words_of_a_part_that_cannot_gain_stay() -> None:
    start = WordTable.random(850, 30, 30, seed=5)
    in_first_row = start.row_of_word == 0
    row_loss, column_loss = np.zeros((850, 30)), np.zeros((850, 30))
    row_loss[in_first_row, 1:] = 5.0
    # The words of the first row want their columns mirrored, all others have no losses.
    wanted = 29 - start.column_of_word[in_first_row]
    column_loss[in_first_row] = abs(np.arange(30) - wanted[:, None])
    solution = solve_alternating(DenseCosts(row_loss, column_loss), start, silent)
    assert solution.objective == 0.0
    moved = (solution.table.row_of_word != start.row_of_word) | (
        solution.table.column_of_word != start.column_of_word
    )
    assert moved.any()
    assert not moved[~in_first_row].any()


def test_a_good_start_is_not_left_for_a_worse_table() -> None:
    costs = clustered_costs(880, 30, 30)
    best = solve_exact(costs, random_start(costs), silent)
    again = solve_alternating(costs, best.table, silent)
    assert again.objective <= best.objective
    assert again.table == best.table
