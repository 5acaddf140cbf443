"""The greedy queues of the first public LightRNN: a row for each word, then a column.

Microsoft's example for CNTK keeps two priority queues. In the first, words wait for rows: the word
with the largest mean loss over the rows it has not yet tried goes to its best row, or, if that is
full, comes back with the next one. In the second the words of each row wait for columns in the same
way. A word that comes back has a larger mean than before, as its smallest losses are tried first,
so it is at once at the head again: words may as well be taken in the order of their first mean,
each to the best place with room. That needs no queue, and looks at each loss once.

Legend: V words, R rows, C columns, L rows or columns, N some of the words.
"""

import time
from collections.abc import Callable

import numba
import numpy as np

from allocation.costs import WORDS_PER_BLOCK, CellCosts, FloatArray, LossArray
from allocation.solvers.protocol import Deadline, Solution, better_solution
from allocation.solvers.transport import cheap_prices
from lightrnn.table import WordTable


def solve_greedy(
    costs: CellCosts,
    start: WordTable,
    on_progress: Callable[[str], None],
    *,
    time_budget_seconds: float | None = None,
    prices_RC: LossArray | None = None,
) -> Solution:
    """Give each word the best row with room, then the best free column there.

    Words with the largest mean loss in all rows but their best come first, in a row those with the
    largest mean in all columns but their best: most often the most frequent ones. Nothing is
    guaranteed of the result, and the column plays no part in the choice of the row.

    Args:
        costs: what each word costs in each cell.
        start: the table in force, which is kept where the greedy one is no better.
        on_progress: called a few times with one line.
        time_budget_seconds: when it is over before the end, the start is returned.
        prices_RC: for the bound, as greedy choices have no prices; without it those of
            `cheap_prices`, which bound large problems only weakly.

    Raises:
        AllocationError: the start does not fit the costs.
    """
    began = time.perf_counter()
    deadline = Deadline(began, time_budget_seconds)
    costs.check_table(start)
    table = _place_greedily(costs, on_progress, deadline) or start
    prices_RC = cheap_prices(costs) if prices_RC is None else prices_RC
    return better_solution(costs, start, table, prices_RC, "greedy", began)


def _place_greedily(
    costs: CellCosts, on_progress: Callable[[str], None], deadline: Deadline
) -> WordTable | None:
    """Return the greedy table, or None where time ran out."""
    num_words = costs.num_words
    on_progress(f"greedy: mean losses of {num_words} words")
    priorities_2V = np.empty((2, num_words))
    for words, *losses in costs.blocks():
        for priorities_V, loss_NL in zip(priorities_2V, losses, strict=True):
            priorities_V[words] = _mean_beyond_best(loss_NL)
        if deadline.passed:
            return None
    in_turn_for_row, in_turn_for_column = np.argsort(-priorities_2V, axis=1, kind="stable")

    on_progress(f"greedy: {num_words} words to {costs.num_rows} rows")
    row_of_word, column_of_word = np.empty((2, num_words), dtype=np.int32)
    room_in_row = np.full(costs.num_rows, costs.num_columns)
    for first in range(0, num_words, WORDS_PER_BLOCK):
        some = in_turn_for_row[first : first + WORDS_PER_BLOCK]
        row_of_word[some] = _take_best_with_room(costs.losses(some, np.float32)[0], room_in_row)
        if deadline.passed:
            return None

    on_progress("greedy: the words of each row to its columns")
    by_row = in_turn_for_column[np.argsort(row_of_word[in_turn_for_column], kind="stable")]
    ends = np.cumsum(costs.num_columns - room_in_row)
    for some in np.split(by_row, ends[:-1]):
        room_in_column = np.ones(costs.num_columns, dtype=np.int64)
        column_loss_NC = costs.losses(some, np.float32)[1]
        column_of_word[some] = _take_best_with_room(column_loss_NC, room_in_column)
        if deadline.passed:
            return None
    return WordTable(row_of_word, column_of_word, costs.num_rows, costs.num_columns)


def _mean_beyond_best(loss_NL: FloatArray) -> LossArray:
    """Return each word's mean loss over all places but its best, float64 [N]."""
    num_others = max(loss_NL.shape[1] - 1, 1)
    return np.asarray((loss_NL.sum(axis=1) - loss_NL.min(axis=1)) / num_others)


@numba.njit(cache=True, nogil=True)
def _take_best_with_room(loss_NL, room_L):  # type: ignore[no-untyped-def]
    """Give each word in turn the best place with room, and take the room; int32 [N]."""
    places_N = np.empty(len(loss_NL), np.int32)
    for i in range(len(loss_NL)):
        best, best_place = np.inf, -1
        for place in range(len(room_L)):
            if loss_NL[i, place] < best and room_L[place] > 0:
                best, best_place = loss_NL[i, place], place
        room_L[best_place] -= 1
        places_N[i] = best_place
    return places_N
