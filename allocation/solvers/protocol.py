"""What a solver of the reallocation is, and what it hands back."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from allocation.costs import CellCosts
from lightrnn.table import WordTable


@dataclass(frozen=True)
class Solution:
    """A table with the proof of how good it is.

    Attributes:
        table: where the words go.
        objective: loss of that table in nats.
        lower_bound: no table has a smaller loss than this, in nats.
        solver: name of the solver.
        seconds: time it took.
    """

    table: WordTable
    objective: float
    lower_bound: float
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
        self, costs: CellCosts, start: WordTable, on_progress: Callable[[str], None]
    ) -> Solution:
        """Solve.

        Args:
            costs: what each word costs in each cell.
            start: the table in force; the solution is never worse than it.
            on_progress: called now and then with one line on how far the solver is.

        Returns:
            The same solution for the same costs and start, but for `seconds`.

        Raises:
            AllocationError: the start does not fit the costs, or the problem is too large.
        """
        ...
