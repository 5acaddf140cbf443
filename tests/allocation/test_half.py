"""The half-approximation matches locally heaviest edges, and keeps what it guarantees."""

from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from allocation_instances import clustered_costs, random_start, silent

import allocation.solvers.half
from allocation.costs import CellCosts, DenseCosts
from allocation.solvers import solve_exact, solve_half
from lightrnn.table import WordTable


def cell_losses(costs: CellCosts) -> npt.NDArray[np.float64]:
    by_row, by_column = costs.losses(slice(None))
    return (by_row[:, :, None] + by_column[:, None, :]).reshape(costs.num_words, -1)


def match_by_sorting(weights: npt.NDArray[np.float64]) -> dict[int, int]:
    """Take edges of positive weight, heaviest first, wherever word and cell are free."""
    cell_of_word: dict[int, int] = {}
    taken: set[int] = set()
    for edge in np.argsort(-weights, axis=None):
        word, cell = divmod(int(edge), weights.shape[1])
        if weights[word, cell] <= 0:
            break
        if word not in cell_of_word and cell not in taken:
            cell_of_word[word] = cell
            taken.add(cell)
    return cell_of_word


@pytest.mark.parametrize("seed", range(5))
def test_the_matching_is_the_one_of_sorted_edges(seed: int) -> None:
    costs = clustered_costs(225, 15, 15, seed)
    losses = cell_losses(costs)
    expected = match_by_sorting(losses.mean(axis=1, keepdims=True) - losses)
    # Some words are left over, so the free cells have a part in it.
    assert 0 < len(expected) < 225
    table = solve_half(costs, random_start(costs), silent).table
    cells = table.row_of_word * 15 + table.column_of_word
    assert all(cells[word] == cell for word, cell in expected.items())


def test_at_least_half_of_what_can_be_saved_is_saved() -> None:
    for seed in range(20):
        costs = clustered_costs(100, 10, 12, seed)
        start = random_start(costs)
        by_chance = float(cell_losses(costs).mean(axis=1).sum())
        best = solve_exact(costs, start, silent).objective
        solution = solve_half(costs, start, silent)
        assert by_chance - solution.objective >= 0.5 * (by_chance - best)


def test_the_guarantee_is_of_weights_not_of_losses() -> None:
    # Word 0 saves a little more in cell 0 than word 1, which has nothing else to go to.
    costs = DenseCosts([[0.0, 2.02], [0.0, 2.0]], [[0.0], [0.0]])
    start = WordTable.from_cells([0, 1], 2, 1)
    assert solve_half(costs, start, silent).objective == 2.0
    far = DenseCosts([[0.0, 1.01], [0.0, 1.0], [0.0, 50.0]], [[0.0, 9.0]] * 3)
    optimum = solve_exact(far, WordTable.from_cells([0, 1, 2], 2, 2), silent)
    assert solve_half(far, optimum.table, silent).objective == optimum.objective


def test_words_whose_lists_are_taken_go_to_the_best_free_cells() -> None:
    costs = clustered_costs(400, 20, 20)
    start = random_start(costs)
    with mock.patch.object(allocation.solvers.half, "LINES_PER_WORD", 2):
        solution = solve_half(costs, start, silent)
    assert solution.objective < costs.objective(start)
    # Twice as many words are left over with so short lists; the table is worse, but valid.
    assert solution.objective > solve_half(costs, start, silent).objective
