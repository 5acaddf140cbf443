"""Solvers give valid tables, never worse than the start, with a bound that holds."""

import math

import numpy as np
import pytest
from allocation_instances import brute_force_objective, clustered_costs, small_costs
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.costs import CellCosts, DenseCosts, with_stay_bonus
from allocation.errors import AllocationError
from allocation.solvers import (
    Solution,
    Solver,
    choose_solver,
    solve_alternating,
    solve_exact,
)
from lightrnn.table import WordTable

SOLVERS: list[Solver] = [solve_exact, solve_alternating]
every_solver = pytest.mark.parametrize("solve", SOLVERS, ids=["exact", "alternating"])


def silent(line: str) -> None:
    pass


def random_start(costs: CellCosts, seed: int = 0) -> WordTable:
    return WordTable.random(costs.num_words, costs.num_rows, costs.num_columns, seed)


def magnitude(costs: CellCosts) -> float:
    """The largest sum of losses in absolute value, against which rounding is to be seen."""
    return float(
        abs(costs.row_loss_VR).max(axis=1).sum() + abs(costs.column_loss_VC).max(axis=1).sum()
    )


@settings(deadline=None, max_examples=200)
@given(small_costs(), st.integers(0, 100))
def test_exact_is_the_best_of_all_tables(costs: CellCosts, seed: int) -> None:
    solution = solve_exact(costs, random_start(costs, seed), silent)
    tolerance = 1e-12 * magnitude(costs)
    assert solution.objective == pytest.approx(brute_force_objective(costs), rel=0, abs=tolerance)
    assert solution.objective == costs.objective(solution.table)
    assert solution.gap == 0.0


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
    assert solution.objective == solution.lower_bound == 0.0
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


def test_a_good_start_is_not_left_for_a_worse_table() -> None:
    costs = clustered_costs(880, 30, 30)
    best = solve_exact(costs, random_start(costs), silent)
    again = solve_alternating(costs, best.table, silent)
    assert again.objective <= best.objective
    assert again.table == best.table


@every_solver
def test_the_same_problem_has_the_same_solution(solve: Solver) -> None:
    costs = clustered_costs(880, 30, 30)
    tied = DenseCosts(np.round(costs.row_loss_VR, -1), np.round(costs.column_loss_VC, -1))
    for problem in (costs, tied):
        lines: list[list[str]] = [[], []]
        first, second = (solve(problem, random_start(costs), told.append) for told in lines)
        assert first.table == second.table
        assert (first.objective, first.lower_bound) == (second.objective, second.lower_bound)
        assert lines[0] == lines[1]


@every_solver
def test_a_start_that_cannot_be_bettered_is_kept(solve: Solver) -> None:
    start = WordTable.random(900, 30, 31, seed=5)
    ones = DenseCosts(np.ones((900, 30)), np.ones((900, 31)))
    solution = solve(ones, start, silent)
    assert solution.table == start
    assert solution.objective == 1800.0
    assert solution.gap == 0.0


@every_solver
def test_a_large_stay_bonus_keeps_every_word(solve: Solver) -> None:
    costs = clustered_costs(880, 30, 30)
    start = random_start(costs)
    kept = solve(with_stay_bonus(costs, start, 1e6), start, silent)
    assert kept.table == start
    moved = solve(with_stay_bonus(costs, start, 0.0), start, silent)
    assert moved.table != start


@every_solver
def test_spare_cells_are_used(solve: Solver) -> None:
    # 30 of 900 cells are spare, the best ones for every word: the last row and the last column.
    num_words = 840
    costs = DenseCosts(
        np.broadcast_to(np.where(np.arange(30) == 29, 0.0, 1.0), (num_words, 30)),
        np.broadcast_to(np.where(np.arange(30) == 29, 0.0, 1.0), (num_words, 30)),
    )
    start = WordTable.from_cells(np.arange(num_words), 30, 30)
    solution = solve(costs, start, silent)
    # All 59 of the good cells are taken: 58 words save one nat, one saves two.
    assert solution.objective == 2 * num_words - 58 - 2
    assert solution.objective < costs.objective(start)


@every_solver
@pytest.mark.parametrize(
    ("num_words", "num_rows", "num_columns"),
    [(1, 1, 1), (1, 3, 4), (7, 1, 9), (7, 9, 1), (9, 1, 9), (600, 1, 600), (600, 600, 1)],
)
def test_a_single_word_or_line_is_fine(
    solve: Solver, num_words: int, num_rows: int, num_columns: int
) -> None:
    random = np.random.default_rng(0)
    costs = DenseCosts(
        random.normal(size=(num_words, num_rows)), random.normal(size=(num_words, num_columns))
    )
    start = random_start(costs)
    best = solve_exact(costs, start, silent).objective
    solution = solve(costs, start, silent)
    assert solution.objective == pytest.approx(best)
    assert solution.lower_bound <= solution.objective


@every_solver
def test_progress_is_told_in_single_lines(solve: Solver) -> None:
    costs = clustered_costs(60, 8, 8)
    told: list[str] = []
    solve(costs, random_start(costs), told.append)
    assert told
    assert all(line and "\n" not in line for line in told)


@every_solver
def test_a_start_of_another_shape_is_refused(solve: Solver) -> None:
    with pytest.raises(AllocationError, match="expected 60 words in 8 x 8"):
        solve(clustered_costs(60, 8, 8), WordTable.random(60, 8, 9, seed=0), silent)


def test_exact_refuses_what_would_not_fit_into_memory() -> None:
    costs = DenseCosts(np.zeros((4200, 65)), np.zeros((4200, 65)))
    with pytest.raises(AllocationError, match=r"0\.1 GiB .* set allocation\.solver to"):
        solve_exact(costs, random_start(costs), silent)


def test_the_gap_is_in_nats_and_in_percent_of_the_objective() -> None:
    table = WordTable.random(1, 1, 1, seed=0)
    assert Solution(table, 50.0, 40.0, "x", 0.0).gap == 10.0
    assert Solution(table, 50.0, 40.0, "x", 0.0).gap_percent == 20.0
    assert Solution(table, -50.0, -60.0, "x", 0.0).gap_percent == 20.0
    assert Solution(table, 0.0, 0.0, "x", 0.0).gap_percent == 0.0
    assert math.isfinite(Solution(table, 0.0, 0.0, "x", 0.0).gap_percent)


def test_auto_is_exact_while_that_takes_a_second() -> None:
    assert choose_solver("auto", 2000) is solve_exact
    assert choose_solver("auto", 2000, 45 * 45) is solve_exact
    assert choose_solver("auto", 2000, 10_000) is solve_alternating
    assert choose_solver("auto", 10_000) is solve_alternating
    assert choose_solver("exact", 10_000) is solve_exact
    assert choose_solver("alternating", 3) is solve_alternating


def test_an_unknown_solver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AllocationError, match="'greedy' is unknown; use one of auto, exact"):
        choose_solver("greedy", 10)  # type: ignore[arg-type]
