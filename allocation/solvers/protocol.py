"""What a solver of the reallocation is, and what it hands back."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from allocation.certificate import lower_bound
from allocation.costs import CellCosts, LossArray
from lightrnn.table import WordTable


@dataclass(frozen=True, eq=False)
class Solution:
    """A table with the proof of how good it is.

    Attributes:
        table: where the words go.
        objective: loss of that table in nats.
        lower_bound: no table has a smaller loss than this, in nats.
        prices_RC: price of each cell in nats, 0 or more, float64 [R, C]; they prove the bound, see
            `allocation.certificate`.
        solver: name of the solver.
        seconds: time it took.
    """

    table: WordTable
    objective: float
    lower_bound: float
    prices_RC: LossArray
    solver: str
    seconds: float

    @property
    def gap(self) -> float:
        """Loss in nats that a perfect solver could still save, at most."""
        return self.objective - self.lower_bound

    @property
    def gap_percent(self) -> float:
        """The gap in percent of the objective's absolute value.

        It tells something where the losses are whole negative log-likelihoods. Losses from which a
        constant a word was taken, as in `L - L.min(axis=1)`, have a smaller objective, hence a
        larger percentage for the same table; compare `gap` there.
        """
        return 100.0 * self.gap / max(abs(self.objective), sys.float_info.min)


class Solver(Protocol):
    """Finds a table of low loss, given the costs and the table in force."""

    def __call__(
        self,
        costs: CellCosts,
        start: WordTable,
        on_progress: Callable[[str], None],
        *,
        time_budget_seconds: float | None = None,
    ) -> Solution:
        """Solve.

        Args:
            costs: what each word costs in each cell.
            start: the table in force; the solution is never worse than it.
            on_progress: called now and then with one line on how far the solver is.
            time_budget_seconds: after this time the solver ends as soon as it can, with the best
                table that it has and its bound; without it when it has done all it can.

        Returns:
            The same solution for the same costs and start, but for `seconds`, where time does not
            run out.

        Raises:
            AllocationError: the start does not fit the costs, or the problem is too large.
        """
        ...


def better_solution(
    costs: CellCosts,
    start: WordTable,
    table: WordTable,
    prices_RC: LossArray,
    solver: str,
    began: float,
) -> Solution:
    """Return the better of a solver's start and its table, with the bound of the prices.

    Args:
        costs: what each word costs in each cell.
        start: kept where the table is no better.
        table: what the solver found.
        prices_RC: price of each cell in nats, float64 [R, C].
        solver: its name.
        began: when it did, by `time.perf_counter`.
    """
    start_objective, objective = costs.objective(start), costs.objective(table)
    if start_objective <= objective:
        table, objective = start, start_objective
    bound = lower_bound(costs, prices_RC)
    return Solution(table, objective, bound, prices_RC, solver, time.perf_counter() - began)


class Deadline:
    """The time at which a solver is to end.

    Args:
        began: when the solver did, by `time.perf_counter`.
        time_budget_seconds: from then on; None for no end.
    """

    def __init__(self, began: float, time_budget_seconds: float | None) -> None:
        self.time = began + (float("inf") if time_budget_seconds is None else time_budget_seconds)

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() > self.time
