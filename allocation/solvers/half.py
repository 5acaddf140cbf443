"""The paper's way to a table: a matching of at least half the greatest weight.

Li et al. (2016, section 3.2) turn the least loss into a greatest weight and take the
1/2-approximation of Preis (1999): match an edge that is the heaviest one at both of its ends, take
both ends away, and go on. Which such edge comes first makes no difference, so words may just as
well propose to cells, heaviest edge first, and a cell leaves its word for a heavier edge (Gale and
Shapley, 1962): where no two weights are equal, the stable matching is the one that Preis finds.

Legend: V words, R rows, C columns, M = R * C cells, K listed rows and columns a word.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from allocation.candidates import NO_CELL, best_lines
from allocation.costs import WORDS_PER_BLOCK, CellCosts, LossArray
from allocation.solvers.free_cells import place_in_free_cells
from allocation.solvers.protocol import Deadline, Solution, better_solution
from allocation.solvers.transport import cheap_prices
from lightrnn.table import WordTable

LINES_PER_WORD = 64
PROPOSALS_PER_ROUND = 1 << 17


def solve_half(
    costs: CellCosts,
    start: WordTable,
    on_progress: Callable[[str], None],
    *,
    time_budget_seconds: float | None = None,
    prices_RC: LossArray | None = None,
) -> Solution:
    """Match words to cells by locally heaviest edges; the words left over go to free cells.

    The weight of a word in a cell is what it saves there against a cell taken by chance: its mean
    loss over all cells less its loss. Edges are the cells in a word's best rows and columns where
    it saves anything. What the matching saves is at least half of the most that any matching of
    these edges can save. That is no bound on the loss itself, which may be many times the least
    one; it depends on the shift from losses to weights, it does not hold for cells outside the
    lists, and it says nothing of the words left over, which take the best free cells in the order
    of their counts.

    Args:
        costs: what each word costs in each cell.
        start: the table in force, which is kept where the matching is no better.
        on_progress: called a few times with one line.
        time_budget_seconds: when it is over before the words left over are placed, the start is
            returned.
        prices_RC: for the bound, as a matching has no prices; without it those of `cheap_prices`,
            which bound large problems only weakly.

    Raises:
        AllocationError: the start does not fit the costs.
    """
    began = time.perf_counter()
    deadline = Deadline(began, time_budget_seconds)
    costs.check_table(start)
    cell_of_word = _match(costs, on_progress, deadline)
    if deadline.passed:
        table = start
    else:
        on_progress(f"half: {np.sum(cell_of_word == NO_CELL)} words left over go to free cells")
        place_in_free_cells(costs, cell_of_word, np.flatnonzero(cell_of_word == NO_CELL))
        table = WordTable.from_cells(cell_of_word, costs.num_rows, costs.num_columns)
    prices_RC = cheap_prices(costs) if prices_RC is None else prices_RC
    return better_solution(costs, start, table, prices_RC, "half", began)


class _Edges(NamedTuple):
    """The cells that a word may propose to; the zero of a word's losses is any.

    Attributes:
        mean_V: each word's mean loss over all cells, float64 [V].
        rows_VK, columns_VK: best rows and columns of each word, best first, uint16 [V, K].
        row_losses_VK, column_losses_VK: losses there, float32 [V, K].
    """

    mean_V: LossArray
    rows_VK: npt.NDArray[np.uint16]
    row_losses_VK: npt.NDArray[np.float32]
    columns_VK: npt.NDArray[np.uint16]
    column_losses_VK: npt.NDArray[np.float32]


def _match(
    costs: CellCosts, on_progress: Callable[[str], None], deadline: Deadline
) -> npt.NDArray[np.int32]:
    """Return the cell of each word, `NO_CELL` for those left over, int32 [V]."""
    num_words = costs.num_words
    on_progress(f"half: the best rows and columns of {num_words} words")
    edges = _list_edges(costs)
    cell_of_word = np.full(num_words, NO_CELL, dtype=np.int32)
    word_at_cell = np.full(costs.num_cells, -1, dtype=np.int32)
    weight_at_cell = np.zeros(costs.num_cells)
    # Heaviest words propose first, as they lose their cells least often: the last of the stack.
    least_V = edges.row_losses_VK[:, 0] + edges.column_losses_VK[:, 0]
    proposing = np.argsort(edges.mean_V - least_V, kind="stable")
    num_proposing = num_words
    while num_proposing and not deadline.passed:
        on_progress(f"half: {num_proposing} words propose to cells")
        num_proposing = _propose(
            proposing,
            num_proposing,
            *edges,
            costs.num_columns,
            weight_at_cell,
            word_at_cell,
            cell_of_word,
            PROPOSALS_PER_ROUND,
        )
    return cell_of_word


def _list_edges(costs: CellCosts) -> _Edges:
    """List each word's best rows and columns."""
    num_words = costs.num_words
    num_rows, num_columns = (
        min(LINES_PER_WORD, size) for size in (costs.num_rows, costs.num_columns)
    )
    edges = _Edges(
        np.zeros(num_words),
        np.empty((num_words, num_rows), np.uint16),
        np.empty((num_words, num_rows), np.float32),
        np.empty((num_words, num_columns), np.uint16),
        np.empty((num_words, num_columns), np.float32),
    )
    for first in range(0, num_words, WORDS_PER_BLOCK):
        words = slice(first, first + WORDS_PER_BLOCK)
        by_row, by_column = costs.losses(words, np.float32)
        edges.mean_V[words] = by_row.mean(axis=1, dtype=np.float64)
        edges.mean_V[words] += by_column.mean(axis=1, dtype=np.float64)
        rows = best_lines(by_row, num_rows, np.zeros(costs.num_rows))
        columns = best_lines(by_column, num_columns, np.zeros(costs.num_columns))
        edges.rows_VK[words], edges.row_losses_VK[words] = rows.lines_NK, rows.losses_NK
        edges.columns_VK[words], edges.column_losses_VK[words] = (
            columns.lines_NK,
            columns.losses_NK,
        )
    return edges


@numba.njit(cache=True, nogil=True)
def _propose(  # type: ignore[no-untyped-def]
    proposing,
    num_proposing,
    mean_V,
    rows_VK,
    row_losses_VK,
    columns_VK,
    column_losses_VK,
    num_columns,
    weight_at_cell,
    word_at_cell,
    cell_of_word,
    max_proposals,
):
    """Let words on the stack propose until it is empty or `max_proposals` were made.

    Returns:
        How many words are left on the stack.
    """
    for _ in range(max_proposals):
        if num_proposing == 0:
            break
        num_proposing -= 1
        word = proposing[num_proposing]
        # The heaviest edge to a cell that would take the word; it has to save something.
        least, best_cell = mean_V[word], NO_CELL
        for rank in range(rows_VK.shape[1]):
            row_loss = row_losses_VK[word, rank]
            if row_loss + column_losses_VK[word, 0] >= least:
                break
            for place in range(columns_VK.shape[1]):
                loss = row_loss + column_losses_VK[word, place]
                if loss >= least:
                    break
                cell = np.int64(rows_VK[word, rank]) * num_columns + columns_VK[word, place]
                if mean_V[word] - loss > weight_at_cell[cell]:
                    least, best_cell = loss, cell
                    break
        if best_cell == NO_CELL:
            continue
        rejected = word_at_cell[best_cell]
        if rejected >= 0:
            cell_of_word[rejected] = NO_CELL
            proposing[num_proposing] = rejected
            num_proposing += 1
        weight_at_cell[best_cell] = mean_V[word] - least
        word_at_cell[best_cell] = word
        cell_of_word[word] = best_cell
    return num_proposing
