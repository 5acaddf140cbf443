"""Where words go that have no cell yet: to the best of those that are free.

Legend: N some of the words, R rows, C columns.
"""

import numba
import numpy as np
import numpy.typing as npt

from allocation.costs import WORDS_PER_BLOCK, CellCosts

NO_CELL = -1
"""What stands for the cell of a word that has none."""


def place_in_free_cells(costs: CellCosts, cell_of_word: npt.NDArray[np.int32]) -> None:
    """Give each word without a cell the best free one, most frequent words first.

    Args:
        costs: what each word costs in each cell.
        cell_of_word: cell of each word, `row * C + column`, or `NO_CELL`; filled in place, [V].
    """
    is_free_RC = np.ones((costs.num_rows, costs.num_columns), dtype=np.bool_)
    is_free_RC.flat[cell_of_word[cell_of_word != NO_CELL]] = False
    # The free columns of each row stand first.
    free_RC = np.argsort(~is_free_RC, axis=1, kind="stable")
    num_free_R = is_free_RC.sum(axis=1)
    left = np.flatnonzero(cell_of_word == NO_CELL)
    left = left[np.argsort(-costs.counts_V[left], kind="stable")]
    for first in range(0, len(left), WORDS_PER_BLOCK):
        words = left[first : first + WORDS_PER_BLOCK]
        by_row, by_column = costs.losses(words, np.float32)
        cell_of_word[words] = _take_free_cells(by_row, by_column, free_RC, num_free_R)


@numba.njit(cache=True)
def _take_free_cells(row_loss_NR, column_loss_NC, free_RC, num_free_R):  # type: ignore[no-untyped-def]
    """Give each word in turn the best of the free cells, which is free no more; int32 [N]."""
    num_words, num_columns = column_loss_NC.shape
    cells_N = np.empty(num_words, np.int32)
    for i in range(num_words):
        least_by_column = column_loss_NC[i].min()
        best, best_row, best_place = np.inf, -1, -1
        for row in np.argsort(row_loss_NR[i]):
            # All rows from here on are too dear even for the best column.
            if row_loss_NR[i, row] + least_by_column >= best:
                break
            for place in range(num_free_R[row]):
                loss = row_loss_NR[i, row] + column_loss_NC[i, free_RC[row, place]]
                if loss < best:
                    best, best_row, best_place = loss, row, place
        cells_N[i] = best_row * num_columns + free_RC[best_row, best_place]
        num_free_R[best_row] -= 1
        free_RC[best_row, best_place] = free_RC[best_row, num_free_R[best_row]]
    return cells_N
