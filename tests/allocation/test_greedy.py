"""The greedy solver places words as two priority queues would."""

import heapq

import numpy as np
import numpy.typing as npt
import pytest
from allocation_instances import clustered_costs, random_start, silent

from allocation.costs import CellCosts
from allocation.solvers import solve_exact, solve_greedy
from lightrnn.table import WordTable


def take_places(losses_NL: npt.NDArray[np.float64], room: int) -> list[int]:
    """Give words places by a priority queue, word by word and try by try, as CNTK's example does.

    Args:
        losses_NL: loss of each word in each place.
        room: how many words a place takes.
    """
    num_words, num_places = losses_NL.shape
    tries = np.argsort(losses_NL, axis=1, kind="stable")

    def entry(word: int, num_tried: int) -> tuple[float, int, int]:
        untried = losses_NL[word, tries[word, num_tried + 1 :]]
        return -untried.sum() / max(len(untried), 1), word, num_tried

    queue = [entry(word, 0) for word in range(num_words)]
    heapq.heapify(queue)
    room_L, place_of_word = [room] * num_places, [-1] * num_words
    while queue:
        _, word, num_tried = heapq.heappop(queue)
        place = int(tries[word, num_tried])
        if room_L[place]:
            room_L[place] -= 1
            place_of_word[word] = place
        else:
            heapq.heappush(queue, entry(word, num_tried + 1))
    return place_of_word


def place_by_queues(costs: CellCosts) -> WordTable:
    by_row, by_column = costs.losses(slice(None))
    row_of_word = np.array(take_places(by_row, costs.num_columns))
    column_of_word = np.empty_like(row_of_word)
    for row in range(costs.num_rows):
        words = np.flatnonzero(row_of_word == row)
        column_of_word[words] = take_places(by_column[words], 1)
    return WordTable(row_of_word, column_of_word, costs.num_rows, costs.num_columns)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_words", "num_rows", "num_columns"), [(225, 15, 15), (190, 11, 20)])
def test_words_in_order_of_their_means_end_where_the_queues_put_them(
    num_words: int, num_rows: int, num_columns: int, seed: int
) -> None:
    costs = clustered_costs(num_words, num_rows, num_columns, seed)
    solution = solve_greedy(costs, random_start(costs), silent)
    assert solution.table == place_by_queues(costs)


def test_the_bound_is_that_of_the_prices_given() -> None:
    costs = clustered_costs(225, 15, 15)
    best = solve_exact(costs, random_start(costs), silent)
    greedy = solve_greedy(costs, best.table, silent, prices_RC=best.prices_RC)
    assert greedy.lower_bound == best.lower_bound
    assert greedy.table == best.table
