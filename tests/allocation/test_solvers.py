"""Every solver gives a valid table, never worse than the start, with prices that bound all."""

import math
from typing import get_args

import numpy as np
import pytest
from allocation_instances import (
    ADVERSARIES,
    adversarial_costs,
    clustered_costs,
    magnitude,
    random_start,
    silent,
    small_costs,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.certificate import lower_bound
from allocation.costs import CellCosts, DenseCosts, FactoredCosts, with_stay_bonus
from allocation.errors import AllocationError
from allocation.solvers import (
    Solution,
    Solver,
    SolverName,
    choose_solver,
    solve_auction,
    solve_exact,
)
from lightrnn.table import WordTable

SOLVERS = {
    name: choose_solver(name, num_words=1) for name in get_args(SolverName) if name != "auto"
}
every_solver = pytest.mark.parametrize("solve", SOLVERS.values(), ids=list(SOLVERS))


def check(costs: CellCosts, start: WordTable, solution: Solution) -> None:
    """Check all that is promised of any solution; `WordTable` has checked the table itself."""
    costs.check_table(solution.table)
    assert solution.objective == costs.objective(solution.table)
    assert solution.objective <= costs.objective(start)
    bound = lower_bound(costs, solution.prices_RC)
    assert solution.lower_bound == min(bound, solution.objective)
    rounding = 1e-14 * magnitude(costs)
    optimum = solve_exact(costs, start, silent)
    assert solution.lower_bound <= optimum.objective + rounding
    assert solution.objective >= optimum.lower_bound - rounding


@every_solver
@settings(deadline=None, max_examples=100)
@given(costs=small_costs(), seed=st.integers(0, 100))
def test_promises_are_kept_on_any_small_table(solve: Solver, costs: CellCosts, seed: int) -> None:
    start = random_start(costs, seed)
    check(costs, start, solve(costs, start, silent))


@every_solver
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("adversary", list(ADVERSARIES))
def test_promises_are_kept_on_hard_losses(solve: Solver, adversary: str, absent: bool) -> None:
    for costs in adversarial_costs(adversary, absent):
        start = random_start(costs)
        solution = solve(costs, start, silent)
        check(costs, start, solution)
        again = solve(costs, start, silent)
        assert again.table == solution.table
        assert np.array_equal(again.prices_RC, solution.prices_RC)


@every_solver
def test_promises_are_kept_on_clustered_words(solve: Solver) -> None:
    for num_words in (880, 900):
        costs = clustered_costs(num_words, 30, 30)
        start = random_start(costs)
        solution = solve(costs, start, silent)
        check(costs, start, solution)
        # Much is to be gained on a random table, and every solver gains most of it.
        gained = costs.objective(start) - solution.objective
        to_gain = costs.objective(start) - solve_exact(costs, start, silent).objective
        assert gained > 0.8 * to_gain


@every_solver
def test_factors_have_the_same_solution_as_the_losses_they_stand_for(solve: Solver) -> None:
    random = np.random.default_rng(0)
    counts_V = random.integers(1, 50, size=300)
    factored = FactoredCosts(
        features=(random.normal(size=(300, 5)) * counts_V[:, None],) * 2,
        vectors=(random.normal(size=(18, 5)), random.normal(size=(17, 5))),
        biases=(np.zeros(18), np.zeros(17)),
        constants=(20.0 * counts_V, 20.0 * counts_V),
        counts=counts_V,
    )
    dense = DenseCosts(*factored.losses(slice(None)), counts_V)
    solutions = [solve(costs, random_start(costs), silent) for costs in (factored, dense)]
    assert solutions[0].objective == pytest.approx(solutions[1].objective, rel=1e-6)


@every_solver
def test_without_time_there_is_a_table_and_a_bound_nevertheless(solve: Solver) -> None:
    costs = clustered_costs(880, 30, 30)
    start = random_start(costs)
    check(costs, start, solve(costs, start, silent, time_budget_seconds=0.0))


@every_solver
def test_the_same_problem_has_the_same_solution(solve: Solver) -> None:
    costs = clustered_costs(880, 30, 30)
    rounded = [np.round(losses, -1) for losses in costs.losses(slice(None))]
    tied = DenseCosts(*rounded, costs.counts_V)
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
    assert solution.gap == pytest.approx(0.0, abs=1e-9)


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
    least = 2 * num_words - 58 - 2
    if solve in (SOLVERS["greedy"], SOLVERS["half"]):
        assert least <= solution.objective < least + 30
    else:
        assert solution.objective == least
    assert solution.objective < costs.objective(start)


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


def test_the_gap_is_in_nats_and_in_percent_of_the_objective() -> None:
    def solution(objective: float, bound: float) -> Solution:
        table = WordTable.random(1, 1, 1, seed=0)
        return Solution(table, objective, bound, np.zeros((1, 1)), "x", seconds=0.0)

    assert solution(50.0, 40.0).gap == 10.0
    assert solution(50.0, 40.0).gap_percent == 20.0
    assert solution(-50.0, -60.0).gap_percent == 20.0
    assert solution(0.0, 0.0).gap_percent == 0.0
    assert math.isfinite(solution(0.0, 0.0).gap_percent)


def test_auto_is_exact_while_that_takes_a_second() -> None:
    assert choose_solver("auto", 2000) is solve_exact
    assert choose_solver("auto", 2000, 45 * 45) is solve_exact
    assert choose_solver("auto", 2000, 10_000) is solve_auction
    assert choose_solver("auto", 10_000) is solve_auction
    assert choose_solver("exact", 10_000) is solve_exact
    assert choose_solver("auction", 3) is solve_auction


def test_an_unknown_solver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AllocationError, match="'best' is unknown; use one of auto, exact, auction"):
        choose_solver("best", 10)  # type: ignore[arg-type]
