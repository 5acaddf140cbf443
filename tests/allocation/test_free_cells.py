"""Words without a cell get the best of the free ones, whatever they fight for."""

from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

from allocation.candidates import NO_CELL
from allocation.costs import CellCosts, DenseCosts
from allocation.solvers import free_cells
from allocation.solvers.free_cells import place_in_free_cells

CellArray = npt.NDArray[np.int32]


def some_costs(seed: int, num_words: int = 60) -> DenseCosts:
    random = np.random.default_rng(seed)
    counts_V = random.permutation(num_words) + 1
    losses = (random.exponential(size=(num_words, size)) * counts_V[:, None] for size in (8, 9))
    return DenseCosts(*losses, counts_V)


def some_cells(seed: int) -> CellArray:
    """Every fourth word has a cell."""
    cell_of_word = np.full(60, NO_CELL, dtype=np.int32)
    cell_of_word[::4] = np.random.default_rng(seed).permutation(72)[:15]
    return cell_of_word


def place_one_by_one(costs: CellCosts, cell_of_word: CellArray) -> None:
    by_row, by_column = costs.losses(slice(None))
    losses = (by_row[:, :, None] + by_column[:, None, :]).reshape(costs.num_words, -1)
    for word in np.argsort(-costs.counts_V):
        if cell_of_word[word] == NO_CELL:
            free = np.setdiff1d(np.arange(costs.num_cells), cell_of_word)
            cell_of_word[word] = free[np.argmin(losses[word, free])]


def place(costs: CellCosts, cell_of_word: CellArray) -> None:
    place_in_free_cells(costs, cell_of_word, np.flatnonzero(cell_of_word == NO_CELL))


@pytest.mark.parametrize("few_free_cells", [0, 20])
@pytest.mark.parametrize("words_of_block", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_each_word_takes_the_best_free_cell_in_the_order_of_counts(
    seed: int, words_of_block: int, few_free_cells: int
) -> None:
    costs, cell_of_word = some_costs(seed), some_cells(seed)
    expected = cell_of_word.copy()
    place_one_by_one(costs, expected)
    # Two lines of each kind are soon full, and four cells are enough for four words.
    changed = {
        "LINES_PER_WORD": 2,
        "MORE_LINES": 2,
        "CELLS_PER_WORD": 4,
        "WORDS_PER_BLOCK": words_of_block,
        "LEAST_WORDS": words_of_block,
        "MOST_WORDS": words_of_block,
        "FEW_FREE_CELLS": few_free_cells,
    }
    with mock.patch.multiple(free_cells, **changed):
        place(costs, cell_of_word)
    assert cell_of_word.tolist() == expected.tolist()


def test_words_whose_lists_are_taken_try_again() -> None:
    # All alike, 300 words want the same 32 cells first.
    costs = DenseCosts(np.tile(np.arange(18.0), (300, 1)), np.tile(np.arange(17.0), (300, 1)))
    cell_of_word = np.full(300, NO_CELL, dtype=np.int32)
    place(costs, cell_of_word)
    rows, columns = np.divmod(cell_of_word, 17)
    assert len(set(cell_of_word.tolist())) == 300
    best = np.sort(np.add.outer(np.arange(18), np.arange(17)), axis=None)[:300].sum()
    assert (rows + columns).sum() == best


def test_words_that_lose_nothing_anywhere_fill_the_table() -> None:
    costs = DenseCosts(np.zeros((72, 8)), np.zeros((72, 9)))
    cell_of_word = np.full(72, NO_CELL, dtype=np.int32)
    place(costs, cell_of_word)
    assert sorted(cell_of_word.tolist()) == list(range(72))
