"""Where words go that have no cell yet: to the best of those that are free.

Words take turns, most frequent first, and each takes the best free cell. To look for them in
parallel, a block of words lists its best free cells together; then each word in turn takes the
first one on its list that nobody took before. Words whose lists are all taken try again in the
next block. Nothing depends on the number of threads or ranks.

Legend: N some of the words, R rows, C columns, M cells in a word's list, F free cells.
"""

import numba
import numpy as np
import numpy.typing as npt

from allocation.candidates import NO_CELL, LossArray, best_cells, best_lines
from allocation.costs import WORDS_PER_BLOCK, CellCosts

LINES_PER_WORD, MORE_LINES = 32, 16
"""Best rows and columns a word among which free cells are looked for, and by what factor there are
more where all of their cells are taken."""

CELLS_PER_WORD = 32
LEAST_WORDS, MOST_WORDS = 32, 1 << 16
"""Of a block; the fewer, the more often words find their lists taken."""

FEW_FREE_CELLS = 1 << 14
"""So many free cells are looked at one by one, by words that have none among their best lines."""

WORDS_PER_PIECE = 1024

WordArray = npt.NDArray[np.int64]
CellArray = npt.NDArray[np.int32]


def place_in_free_cells(costs: CellCosts, cell_of_word: CellArray, words: WordArray) -> None:
    """Give each of some words without a cell the best free one, most frequent words first.

    Args:
        costs: what each word costs in each cell.
        cell_of_word: cell of each word, `row * C + column`, or `NO_CELL`; filled in place, [V].
        words: those that get a cell, [N].
    """
    # To words that look for one, a cell that is taken has an infinite price.
    prices_RC = np.zeros((costs.num_rows, costs.num_columns))
    prices_RC.flat[cell_of_word[cell_of_word != NO_CELL]] = np.inf
    words = words[np.argsort(-costs.counts_V[words], kind="stable")]
    size, again = WORDS_PER_BLOCK, words[:0]
    while len(words) or len(again):
        num_new = max(0, size - len(again))
        block, words = np.concatenate([again[:size], words[:num_new]]), words[num_new:]
        cells_NM = _lists_of_free_cells(costs, block, prices_RC)
        cell_of_word[block] = _take_first_free(cells_NM, prices_RC.reshape(-1))
        left = block[cell_of_word[block] == NO_CELL]
        again = np.concatenate([left, again[size:]])
        # Many lists are taken where like words fight for the same cells, or few are left.
        size = size // 2 if 4 * len(left) > len(block) else 2 * size
        size = min(max(size, LEAST_WORDS), MOST_WORDS)


def _lists_of_free_cells(costs: CellCosts, words: WordArray, prices_RC: LossArray) -> CellArray:
    """Return the best free cells of each word, best first, one at least, int32 [N, M]."""
    cells_NM = np.full((len(words), CELLS_PER_WORD), NO_CELL, np.int32)
    line_prices = prices_RC.min(axis=1), prices_RC.min(axis=0)
    num_lines = LINES_PER_WORD
    open_places = np.arange(len(words))
    while len(open_places):
        open_words = words[open_places]
        if num_lines > LINES_PER_WORD:
            free_cells = np.flatnonzero(prices_RC == 0)
            if len(free_cells) <= FEW_FREE_CELLS:
                cells_NM[open_places] = _best_of_few(costs, open_words, free_cells)
                break
        lines = costs.candidates(open_words, num_lines, line_prices)
        best = best_cells(lines, prices_RC, line_prices, CELLS_PER_WORD)
        cells_NM[open_places] = best.cells_NM
        open_places = open_places[best.cells_NM[:, 0] == NO_CELL]
        num_lines *= MORE_LINES
    return cells_NM


def _best_of_few(
    costs: CellCosts, words: WordArray, free_cells: npt.NDArray[np.int64]
) -> CellArray:
    """Return the best of the free cells for each word by a look at all of them, int32 [N, M]."""
    cells_NM = np.full((len(words), CELLS_PER_WORD), NO_CELL, np.int32)
    rows_F, columns_F = np.divmod(free_cells, costs.num_columns)
    for start in range(0, len(words), WORDS_PER_PIECE):
        piece = slice(start, start + WORDS_PER_PIECE)
        by_row, by_column = costs.losses(words[piece], np.float32)
        loss_NF = by_row[:, rows_F] + by_column[:, columns_F]
        places_NM = best_lines(loss_NF, CELLS_PER_WORD, np.zeros(len(free_cells))).lines_NK
        cells_NM[piece, : places_NM.shape[1]] = free_cells[places_NM]
    return cells_NM


@numba.njit(cache=True, nogil=True)
def _take_first_free(cells_NM, prices):  # type: ignore[no-untyped-def]
    """Give each word in turn the first free cell on its list, which then is taken; int32 [N]."""
    num_words, length = cells_NM.shape
    cell_N = np.full(num_words, NO_CELL, np.int32)
    for word in range(num_words):
        for place in range(length):
            cell = cells_NM[word, place]
            if cell == NO_CELL:
                break
            if prices[cell] == 0:
                cell_N[word] = cell
                prices[cell] = np.inf
                break
    return cell_N
