"""One solver on the statistics of one file: how long, how much memory, how near the best table.

Legend: V words, M cells.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from allocation.costs import CellCosts, FactoredCosts, PenalizedCosts
from allocation.errors import AllocationError
from allocation.recorded import load_record
from allocation.solvers import Solution, Solver, choose_solver, solve_auction
from allocation.solvers.exact import cell_losses
from benchmarks.measuring import GIB, peak_rss_gib
from benchmarks.simulated import load_simulated, simulate
from lightrnn.table import WordTable

MAX_SCIPY_GIB = 2.0
WORDS_OF_COMPILING, HIDDEN_OF_COMPILING = 150, 8


@dataclass(frozen=True)
class Problem:
    """What is solved.

    Attributes:
        vocab_size, num_rows, num_columns: V, R, C.
        hidden_size: features a word and side; 0 where the losses themselves are given.
        tokens: occurrences of all words.
        objective_before: loss of the table in force, nats.
    """

    vocab_size: int
    num_rows: int
    num_columns: int
    hidden_size: int
    tokens: float
    objective_before: float


@dataclass(frozen=True)
class SolverRun:
    """What a solver did.

    Attributes:
        seconds: from the costs to the table and its own bound, compiled kernels taken as given.
        compile_seconds: before that, for a tiny problem that makes numba compile or load them.
        peak_rss_gib: of its process, with Python, the libraries and the mapped statistics.
        objective: loss of its table, nats.
        lower_bound: its own proof, nats.
        last_words: its last line of progress.
    """

    seconds: float
    compile_seconds: float
    peak_rss_gib: float
    objective: float
    lower_bound: float
    last_words: str


def load_statistics(path: Path) -> tuple[CellCosts, WordTable]:
    """Return costs and the table in force, of a simulation's folder or of a record's file."""
    if path.is_dir():
        return load_simulated(path)
    record = load_record(path)
    return record.costs, record.table


def write_simulated(
    vocab_size: int, hidden_size: int, seed: int, folder: Path, with_normalizers: bool = True
) -> None:
    """Simulate statistics into a folder."""
    simulate(vocab_size, hidden_size, seed=seed, folder=folder, with_normalizers=with_normalizers)


def describe(path: Path) -> Problem:
    """Return what the statistics are of."""
    costs, table = load_statistics(path)
    factored = costs.costs if isinstance(costs, PenalizedCosts) else costs
    return Problem(
        vocab_size=costs.num_words,
        num_rows=costs.num_rows,
        num_columns=costs.num_columns,
        hidden_size=(factored.features[0].shape[1] if isinstance(factored, FactoredCosts) else 0),
        tokens=float(costs.counts_V.sum()),
        objective_before=costs.objective(table),
    )


def run_solver(spec: str, path: Path, time_budget_seconds: float | None) -> SolverRun:
    """Run a solver in this process, which had best be a fresh one.

    Args:
        spec: name of the solver, or `auction@PRECISION`.
        path: of the statistics.
        time_budget_seconds: for the solver; None for no bound.

    Raises:
        AllocationError: there is no such solver, or the problem is too large for it.
    """
    costs, start = load_statistics(path)
    solve = solver_of(spec, costs)
    told = [""]

    def tell(line: str) -> None:
        told[0] = line
        print(f"{spec}: {line}", file=sys.stderr, flush=True)

    began = time.perf_counter()
    tiny_costs, tiny_start = simulate(WORDS_OF_COMPILING, HIDDEN_OF_COMPILING, steps=1)
    solve(tiny_costs, tiny_start, lambda line: None)
    compiled = time.perf_counter()
    solution = solve(costs, start, tell, time_budget_seconds=time_budget_seconds)
    return SolverRun(
        seconds=time.perf_counter() - compiled,
        compile_seconds=compiled - began,
        peak_rss_gib=peak_rss_gib(),
        objective=solution.objective,
        lower_bound=solution.lower_bound,
        last_words=told[0],
    )


def solver_of(spec: str, costs: CellCosts) -> Solver:
    """Return the solver that a specification names; raises as `run_solver`."""
    name, _, precision = spec.partition("@")
    if name == "scipy":
        return solve_scipy
    if not precision:
        if name == "auto":
            raise AllocationError("auto is no solver to compare; name those that it chooses from")
        return choose_solver(name, costs.num_words, costs.num_cells)  # type: ignore[arg-type]
    if name != "auction":
        raise AllocationError(f"{spec} is unknown: only auction has a precision")
    try:
        return partial(solve_auction, precision=float(precision))
    except ValueError as error:
        raise AllocationError(f"{spec} is unknown: {precision} is no number") from error


def solve_scipy(
    costs: CellCosts,
    start: WordTable,
    on_progress: Callable[[str], None],
    *,
    time_budget_seconds: float | None = None,
) -> Solution:
    """Find the optimum by SciPy on the whole matrix of words by cells.

    It gives no prices; since it is exact, its own objective stands for its bound.

    Raises:
        AllocationError: the matrix would exceed `MAX_SCIPY_GIB`.
    """
    began = time.perf_counter()
    matrix_gib = 8 * costs.num_words * costs.num_cells / GIB
    if matrix_gib > MAX_SCIPY_GIB:
        raise AllocationError(
            f"the matrix of words by cells takes {matrix_gib:.3g} GiB, expected at most "
            f"{MAX_SCIPY_GIB:g}"
        )
    on_progress(f"a matrix of {matrix_gib:.3g} GiB")
    _, cell_of_word = linear_sum_assignment(cell_losses(costs))
    table = WordTable.from_cells(cell_of_word, costs.num_rows, costs.num_columns)
    objective, seconds = costs.objective(table), time.perf_counter() - began
    no_prices_RC = np.zeros((costs.num_rows, costs.num_columns))
    return Solution(table, objective, objective, no_prices_RC, "scipy", seconds)
