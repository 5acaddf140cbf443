"""Costs are checked once, shared without copies, and priced as the model would price them."""

import numpy as np
import pytest

from allocation.costs import CellCosts
from allocation.errors import AllocationError
from lightrnn.errors import LightRNNError, WordTableError
from lightrnn.table import WordTable


def random_costs(num_words: int, num_rows: int, num_columns: int, seed: int = 0) -> CellCosts:
    random = np.random.default_rng(seed)
    return CellCosts(
        random.exponential(size=(num_words, num_rows)),
        random.exponential(size=(num_words, num_columns)),
    )


def test_the_objective_adds_each_words_row_and_column() -> None:
    costs = CellCosts(np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([[16.0, 32.0], [64.0, 128.0]]))
    table = WordTable.from_cells([2, 1], 2, 2)
    assert costs.objective_by_word(table).tolist() == [2.0 + 16.0, 4.0 + 128.0]
    assert costs.objective(table) == 150.0
    assert (costs.num_words, costs.num_rows, costs.num_columns) == (2, 2, 2)


def test_the_objective_is_rounded_once() -> None:
    losses = np.array([[1e16], [1.0], [1.0], [-1e16]])
    costs = CellCosts(losses, np.zeros((4, 4)))
    assert costs.objective(WordTable.from_cells([0, 1, 2, 3], 1, 4)) == 2.0


def test_the_losses_are_shared_not_copied_and_not_writable_from_here() -> None:
    row_loss, column_loss = np.zeros((4, 2)), np.zeros((4, 2))
    costs = CellCosts(row_loss, column_loss)
    assert np.shares_memory(costs.row_loss_VR, row_loss)
    assert np.shares_memory(costs.column_loss_VC, column_loss)
    with pytest.raises(ValueError, match="read-only"):
        costs.row_loss_VR[0, 0] = 1.0
    row_loss[0, 0] = 1.0


def test_single_precision_is_widened() -> None:
    costs = CellCosts(np.ones((2, 2), dtype=np.float32), np.ones((2, 1), dtype=np.float32))
    assert costs.row_loss_VR.dtype == np.float64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["row", "column"])
def test_a_loss_that_is_not_finite_is_refused_by_the_words_name(value: float, side: str) -> None:
    row_loss, column_loss = np.zeros((6, 2)), np.zeros((6, 3))
    (row_loss if side == "row" else column_loss)[4, 1] = value
    with pytest.raises(AllocationError, match=f"word 4 .* in {side} 1"):
        CellCosts(row_loss, column_loss)


@pytest.mark.parametrize(
    ("row_shape", "column_shape"), [((4, 2), (3, 2)), ((4,), (4, 2)), ((4, 2), (4, 2, 1))]
)
def test_shapes_that_do_not_agree_are_refused(
    row_shape: tuple[int, ...], column_shape: tuple[int, ...]
) -> None:
    with pytest.raises(AllocationError, match="equally many words"):
        CellCosts(np.zeros(row_shape), np.zeros(column_shape))


def test_words_without_room_are_refused() -> None:
    with pytest.raises(WordTableError, match="do not fit"):
        CellCosts(np.zeros((5, 2)), np.zeros((5, 2)))


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(LightRNNError, match="4 words in 2 x 3 cells, expected 4 words in 2 x 2"):
        random_costs(4, 2, 2).objective(WordTable.random(4, 2, 3, seed=0))


def test_the_stay_bonus_prices_moves_by_count_and_side() -> None:
    costs = random_costs(6, 2, 3)
    counts = np.array([5, 0, 1, 2, 3, 4])
    table = WordTable.from_cells([0, 1, 2, 3, 4, 5], 2, 3)
    with_bonus = costs.with_stay_bonus(table, 0.5, counts)
    assert with_bonus.objective(table) == costs.objective(table)
    # Words 0 and 1 change columns, 2 and 3 rows and columns, 4 and 5 stay.
    moved = WordTable.from_cells([1, 0, 3, 2, 4, 5], 2, 3)
    extra = with_bonus.objective_by_word(moved) - costs.objective_by_word(moved)
    assert extra == pytest.approx([2.5, 0.0, 1.0, 2.0, 0.0, 0.0])


def test_without_a_bonus_the_costs_are_the_same() -> None:
    costs, table = random_costs(6, 2, 3), WordTable.random(6, 2, 3, seed=0)
    same = costs.with_stay_bonus(table, 0.0, np.ones(6))
    assert np.array_equal(same.row_loss_VR, costs.row_loss_VR)
    assert np.array_equal(same.column_loss_VC, costs.column_loss_VC)


@pytest.mark.parametrize("bonus", [-0.1, np.nan, np.inf])
def test_a_senseless_bonus_is_refused(bonus: float) -> None:
    table = WordTable.random(4, 2, 2, seed=0)
    with pytest.raises(AllocationError, match="bonus"):
        random_costs(4, 2, 2).with_stay_bonus(table, bonus, np.ones(4))


def test_senseless_counts_are_refused() -> None:
    costs, table = random_costs(4, 2, 2), WordTable.random(4, 2, 2, seed=0)
    with pytest.raises(AllocationError, match="word 2 has the count -1"):
        costs.with_stay_bonus(table, 1.0, [1, 0, -1, 1])
    with pytest.raises(AllocationError, match="expected one for each of 4 words"):
        costs.with_stay_bonus(table, 1.0, [1, 2, 3])
