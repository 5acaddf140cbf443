"""Solvers of the reallocation: from the costs and the table in force to a better table."""

from typing import Literal

from allocation.errors import AllocationError
from allocation.solvers.alternating import solve_alternating
from allocation.solvers.auction import solve_auction
from allocation.solvers.exact import solve_exact
from allocation.solvers.greedy import solve_greedy
from allocation.solvers.half import solve_half
from allocation.solvers.protocol import Solution, Solver
from allocation.solvers.transport import transport_prices
from allocation.solvers.within_rows import solve_within_rows, with_rows_fixed

__all__ = [
    "Solution",
    "Solver",
    "SolverName",
    "choose_solver",
    "solve_alternating",
    "solve_auction",
    "solve_exact",
    "solve_greedy",
    "solve_half",
    "solve_within_rows",
    "transport_prices",
    "with_rows_fixed",
]

SolverName = Literal["auto", "exact", "auction", "alternating", "greedy", "half"]

AUTO_EXACT_WORDS_TIMES_CELLS = 1 << 22
"""What `auto` still solves exactly: 2,000 words in as many cells, about a second."""


def choose_solver(name: SolverName, num_words: int, num_cells: int | None = None) -> Solver:
    """Return the solver of that name.

    Args:
        name: `auto` is `exact` for small problems, else `auction`.
        num_words: V.
        num_cells: R * C; without it a table that is full.

    Raises:
        AllocationError: there is no such solver.
    """
    small = num_words * (num_cells or num_words) <= AUTO_EXACT_WORDS_TIMES_CELLS
    solvers: dict[str, Solver] = {
        "auto": solve_exact if small else solve_auction,
        "exact": solve_exact,
        "auction": solve_auction,
        "alternating": solve_alternating,
        "greedy": solve_greedy,
        "half": solve_half,
    }
    if name not in solvers:
        raise AllocationError(
            f"allocation.solver={name!r} is unknown; use one of {', '.join(solvers)}"
        )
    return solvers[name]
