"""The least loss there is, by a dense assignment of words to all cells.

Legend: V words, R rows, C columns, M = R * C cells.
"""

import time
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from allocation.costs import CellCosts, LossArray
from allocation.errors import AllocationError
from allocation.solvers.protocol import Solution, better_solution
from lightrnn.table import WordTable

MAX_WORDS_TIMES_CELLS = 1 << 24
"""Largest matrix of words by cells that is built: 128 MiB, some 4,000 words."""

ROUNDING = 2.0**-45
"""Prices that are too low by a smaller share of what a word pays are left so."""


def solve_exact(
    costs: CellCosts,
    start: WordTable,
    on_progress: Callable[[str], None],
    *,
    time_budget_seconds: float | None = None,
) -> Solution:
    """Find an optimal table with the shortest augmenting paths of SciPy (Crouse, 2016).

    Args:
        costs: what each word costs in each cell.
        start: the table in force, which is kept where no other table is better.
        on_progress: called once before the start.
        time_budget_seconds: without effect; the largest problem taken is one of seconds, and there
            is no table before the end.

    Returns:
        The optimum, with prices that prove it: its bound is the objective itself but for rounding.

    Raises:
        AllocationError: the matrix of words by cells would exceed `MAX_WORDS_TIMES_CELLS` entries,
            or the start does not fit the costs.
    """
    began = time.perf_counter()
    costs.check_table(start)
    num_cells = costs.num_cells
    if costs.num_words * num_cells > MAX_WORDS_TIMES_CELLS:
        raise AllocationError(
            f"the exact solver would need {8 * costs.num_words * num_cells / 2**30:.1f} GiB for "
            f"{costs.num_words} words by {num_cells} cells, expected at most "
            f"{8 * MAX_WORDS_TIMES_CELLS / 2**30:.3f} GiB; set allocation.solver to 'auction'"
        )
    on_progress(f"exact: {costs.num_words} words to {num_cells} cells")
    loss_VM = cell_losses(costs)
    _, cell_of_word = linear_sum_assignment(loss_VM)
    table = WordTable.from_cells(np.asarray(cell_of_word), costs.num_rows, costs.num_columns)
    prices_RC = optimal_prices(loss_VM, cell_of_word).reshape(costs.num_rows, costs.num_columns)
    return better_solution(costs, start, table, prices_RC, "exact", began)


def cell_losses(costs: CellCosts) -> LossArray:
    """Return the loss of each word in each cell above its least, nats, float64 [V, M]."""
    # What a word pays anywhere would cost the digits that decide.
    row_loss, column_loss = (
        loss - loss.min(axis=1, keepdims=True) for loss in costs.losses(slice(None))
    )
    loss_VRC: LossArray = row_loss[:, :, None] + column_loss[:, None, :]
    return loss_VRC.reshape(costs.num_words, costs.num_cells)


def optimal_prices(loss_VM: LossArray, cell_of_word: npt.NDArray[np.intp]) -> LossArray:
    """Return the least prices at which an optimal assignment gives each word its best cell.

    The word in cell `i` is content where `p[j] >= loss[w, i] + p[i] - loss[w, j]` for all cells
    `j`. Starting from zero, prices are raised where they fall short, until none does: a search for
    longest paths, which ends since an optimal assignment has no cycle of positive length. Cells
    without a word stay at zero, so the dual value is the loss of the assignment.

    Args:
        loss_VM: loss of each word in each cell, none negative, nats [V, M].
        cell_of_word: an optimal assignment, [V].

    Returns:
        Price of each cell in nats, float64 [M].
    """
    prices_M: LossArray = _raise_prices(loss_VM, np.asarray(cell_of_word, dtype=np.int64), ROUNDING)
    return prices_M


@numba.njit(cache=True, nogil=True)
def _raise_prices(loss_VM, cell_of_word, rounding):  # type: ignore[no-untyped-def]
    num_words, num_cells = loss_VM.shape
    prices_M = np.zeros(num_cells)
    word_at_cell = np.full(num_cells, -1, np.int64)
    word_at_cell[cell_of_word] = np.arange(num_words)
    # Words whose price rose, first come, first served; each at most once, so the ring is enough.
    queue = np.arange(num_words)
    is_queued = np.ones(num_words, np.bool_)
    first, num_queued = 0, num_words
    while num_queued > 0:
        word = queue[first]
        first = (first + 1) % num_words
        num_queued -= 1
        is_queued[word] = False
        paid = loss_VM[word, cell_of_word[word]] + prices_M[cell_of_word[word]]
        for cell in range(num_cells):
            holder = word_at_cell[cell]
            shortfall = paid - loss_VM[word, cell] - prices_M[cell]
            # Cycles of length zero may look positive by rounding, and would go on for ever.
            if shortfall <= rounding * paid or holder < 0:
                continue
            prices_M[cell] += shortfall
            if not is_queued[holder]:
                is_queued[holder] = True
                queue[(first + num_queued) % num_words] = holder
                num_queued += 1
    return prices_M
