"""The least loss there is, by a dense assignment of words to all cells."""

import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from allocation.costs import CellCosts
from allocation.errors import AllocationError
from allocation.solvers.protocol import Solution
from lightrnn.table import WordTable

MAX_WORDS_TIMES_CELLS = 1 << 24
"""Largest matrix of words by cells that is built: 128 MiB, some 4,000 words."""


def solve_exact(costs: CellCosts, start: WordTable, on_progress: Callable[[str], None]) -> Solution:
    """Find an optimal table with the shortest augmenting paths of SciPy (Crouse, 2016).

    Args:
        costs: what each word costs in each cell.
        start: the table in force, which is kept where no other table is better.
        on_progress: called once before the start.

    Returns:
        The optimum; its lower bound is the objective itself.

    Raises:
        AllocationError: the matrix of words by cells would exceed `MAX_WORDS_TIMES_CELLS` entries,
            or the start does not fit the costs.
    """
    began = time.perf_counter()
    num_cells = costs.num_cells
    if costs.num_words * num_cells > MAX_WORDS_TIMES_CELLS:
        raise AllocationError(
            f"the exact solver would need {8 * costs.num_words * num_cells / 2**30:.1f} GiB for "
            f"{costs.num_words} words by {num_cells} cells, expected at most "
            f"{8 * MAX_WORDS_TIMES_CELLS / 2**30:.3f} GiB; set allocation.solver to 'alternating'"
        )
    start_objective = costs.objective(start)
    on_progress(f"exact: {costs.num_words} words to {num_cells} cells")
    # What a word pays anywhere would cost the digits that decide.
    row_loss, column_loss = (
        loss - loss.min(axis=1, keepdims=True) for loss in costs.losses(slice(None))
    )
    loss = (row_loss[:, :, None] + column_loss[:, None, :]).reshape(costs.num_words, num_cells)
    _, cell_of_word = linear_sum_assignment(loss)
    table = WordTable.from_cells(np.asarray(cell_of_word), costs.num_rows, costs.num_columns)
    objective = costs.objective(table)
    if start_objective <= objective:
        table, objective = start, start_objective
    return Solution(table, objective, objective, "exact", time.perf_counter() - began)
