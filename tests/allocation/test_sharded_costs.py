"""Words that are shared out over ranks get the table and the bound of words on one rank."""

import functools
import itertools
from typing import get_args

import pytest
from shared_statistics import model_and_table, statistics_of_rank
from transports import Transport, every_transport, run_on

from allocation import Communicator, ExchangeMode, SingleProcess, StatisticsKind, exchange
from allocation.sharded_costs import ShardedCosts
from allocation.solvers import solve_auction

Case = tuple[StatisticsKind, ExchangeMode, float | None]
Solved = tuple[str, float, float]
"""Fingerprint of the table, objective, bound."""

CASES: list[Case] = list(
    itertools.product(("hidden", "losses"), get_args(ExchangeMode), (None, 0.0))
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


def solve_all(communicator: Communicator) -> dict[Case, Solved | None]:
    """Exchange and solve in all ways; the solutions are rank 0's."""
    return {case: solve(communicator, *case) for case in CASES}


def solve(
    communicator: Communicator, kind: StatisticsKind, mode: ExchangeMode, seconds: float | None
) -> Solved | None:
    statistics = statistics_of_rank(communicator.rank, communicator.world_size, kind)
    found = exchange(statistics, communicator, mode)
    costs = found.costs
    if mode == "sharded":
        costs = ShardedCosts(found.costs, found.counts_V, communicator)
    if communicator.rank > 0:
        if isinstance(costs, ShardedCosts):
            costs.serve()
        return None
    _, start = model_and_table()
    if isinstance(costs, ShardedCosts):
        with costs:
            solution = solve_auction(costs, start, print, time_budget_seconds=seconds)
    else:
        solution = solve_auction(costs, start, print, time_budget_seconds=seconds)
    return solution.table.fingerprint, solution.objective, solution.lower_bound


@functools.cache
def alone() -> dict[Case, Solved | None]:
    return solve_all(SingleProcess())


@every_transport
@every_case
def test_table_and_bound_are_the_same_to_the_bit(
    transport: Transport, world_size: int, case: Case
) -> None:
    kind, _, seconds = case
    assert run_on(transport, world_size, solve_all)[0][case] == alone()[kind, "dense", seconds]


@pytest.mark.parametrize("kind", ["hidden", "losses"])
def test_out_of_time_most_words_go_to_free_cells(kind: StatisticsKind) -> None:
    in_time, out_of_time = (alone()[kind, "dense", seconds] for seconds in (None, 0.0))
    assert in_time is not None
    assert out_of_time is not None
    assert in_time[1] < out_of_time[1]
    assert out_of_time[2] < in_time[2]
