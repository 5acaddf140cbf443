"""Where words go that have no cell yet: to the best of those that are free.

Legend: N some of the words, R rows, C columns.
"""

import numba
import numpy as np
import numpy.typing as npt

from allocation.candidates import best_lines
from allocation.costs import WORDS_PER_BLOCK, CellCosts

NO_CELL = -1
"""What stands for the cell of a word that has none."""

SORTED_ROWS = 128
"""So many of a word's best rows are sorted beforehand; the others only for words that need them."""

MOST_CELLS_LOOKED_AT = 1 << 16
"""A word takes the best of so many free cells, row after row; of all of them in small tables."""


def place_in_free_cells(
    costs: CellCosts, cell_of_word: npt.NDArray[np.int32], words: npt.NDArray[np.int64]
) -> None:
    """Give each of some words without a cell the best free one, most frequent words first.

    In large tables it is the best one in the rows that are best for the word: the others are left
    out after `MOST_CELLS_LOOKED_AT` cells.

    Args:
        costs: what each word costs in each cell.
        cell_of_word: cell of each word, `row * C + column`, or `NO_CELL`; filled in place, [V].
        words: those that get a cell, [N].
    """
    is_free_RC = np.ones((costs.num_rows, costs.num_columns), dtype=np.bool_)
    is_free_RC.flat[cell_of_word[cell_of_word != NO_CELL]] = False
    # The free columns of each row stand first.
    free_RC = np.argsort(~is_free_RC, axis=1, kind="stable")
    num_free_R = is_free_RC.sum(axis=1)
    words = words[np.argsort(-costs.counts_V[words], kind="stable")]
    no_prices_R = np.zeros(costs.num_rows)
    for first in range(0, len(words), WORDS_PER_BLOCK):
        block = words[first : first + WORDS_PER_BLOCK]
        by_row, by_column = costs.losses(block, np.float32)
        best_rows_NK = best_lines(by_row, SORTED_ROWS, no_prices_R).lines_NK
        cell_of_word[block] = _take_free_cells(by_row, by_column, best_rows_NK, free_RC, num_free_R)


@numba.njit(cache=True, nogil=True)
def _take_free_cells(  # type: ignore[no-untyped-def]
    row_loss_NR, column_loss_NC, best_rows_NK, free_RC, num_free_R
):
    """Give each word in turn the best of the free cells, which is free no more; int32 [N]."""
    num_words, num_columns = column_loss_NC.shape
    num_rows, num_sorted = row_loss_NR.shape[1], best_rows_NK.shape[1]
    cells_N = np.empty(num_words, np.int32)
    for i in range(num_words):
        least_by_column = column_loss_NC[i].min()
        best, best_row, best_place = np.inf, -1, -1
        num_looked_at = 0
        rows = best_rows_NK[i].astype(np.int64)
        for rank in range(num_rows):
            if rank == num_sorted:
                rows = np.argsort(row_loss_NR[i], kind="mergesort")
            row = rows[rank]
            # All rows from here on are too dear even for the best column.
            if row_loss_NR[i, row] + least_by_column >= best:
                break
            if num_looked_at >= MOST_CELLS_LOOKED_AT:
                break
            num_looked_at += num_free_R[row]
            for place in range(num_free_R[row]):
                loss = row_loss_NR[i, row] + column_loss_NC[i, free_RC[row, place]]
                if loss < best:
                    best, best_row, best_place = loss, row, place
        cells_N[i] = best_row * num_columns + free_RC[best_row, best_place]
        num_free_R[best_row] -= 1
        free_RC[best_row, best_place] = free_RC[best_row, num_free_R[best_row]]
    return cells_N
