"""Solvers of the reallocation: from the costs and the table in force to a better table."""

from typing import Literal

from allocation.errors import AllocationError
from allocation.solvers.alternating import solve_alternating
from allocation.solvers.bounds import transport_lower_bound
from allocation.solvers.exact import solve_exact
from allocation.solvers.protocol import Solution, Solver

__all__ = [
    "Solution",
    "Solver",
    "SolverName",
    "choose_solver",
    "solve_alternating",
    "solve_exact",
    "transport_lower_bound",
]

SolverName = Literal["auto", "exact", "alternating"]

AUTO_EXACT_WORDS_TIMES_CELLS = 1 << 22
"""What `auto` still solves exactly: 2,000 words in as many cells, about a second."""


def choose_solver(name: SolverName, num_words: int, num_cells: int | None = None) -> Solver:
    """Return the solver of that name.

    Args:
        name: `auto` is `exact` for small problems, else `alternating`.
        num_words: V.
        num_cells: R * C; without it a table that is full.

    Raises:
        AllocationError: there is no such solver.
    """
    if name == "auto":
        small = num_words * (num_cells or num_words) <= AUTO_EXACT_WORDS_TIMES_CELLS
        return solve_exact if small else solve_alternating
    if name == "exact":
        return solve_exact
    if name == "alternating":
        return solve_alternating
    raise AllocationError(
        f"allocation.solver={name!r} is unknown; use one of auto, exact, alternating"
    )
