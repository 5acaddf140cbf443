"""Costs are checked once, shared without copies, and priced as the model would price them."""

import numpy as np
import pytest

from allocation.costs import CellCosts, DenseCosts, FactoredCosts, with_stay_bonus
from allocation.errors import AllocationError
from lightrnn.errors import LightRNNError, WordTableError
from lightrnn.table import WordTable


def random_costs(num_words: int, num_rows: int, num_columns: int, seed: int = 0) -> CellCosts:
    random = np.random.default_rng(seed)
    return DenseCosts(
        random.exponential(size=(num_words, num_rows)),
        random.exponential(size=(num_words, num_columns)),
    )


def test_the_objective_adds_each_words_row_and_column() -> None:
    costs = DenseCosts(np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([[16.0, 32.0], [64.0, 128.0]]))
    table = WordTable.from_cells([2, 1], 2, 2)
    assert costs.objective(table) == (2.0 + 16.0) + (4.0 + 128.0)
    assert (costs.num_words, costs.num_rows, costs.num_columns) == (2, 2, 2)


def test_the_objective_is_rounded_once() -> None:
    losses = np.array([[1e16], [1.0], [1.0], [-1e16]])
    costs = DenseCosts(losses, np.zeros((4, 4)))
    assert costs.objective(WordTable.from_cells([0, 1, 2, 3], 1, 4)) == 2.0


def test_the_losses_are_shared_not_copied_and_not_writable_from_here() -> None:
    row_loss, column_loss = np.zeros((4, 2)), np.zeros((4, 2))
    costs = DenseCosts(row_loss, column_loss)
    assert np.shares_memory(costs.row_loss_VR, row_loss)
    assert np.shares_memory(costs.column_loss_VC, column_loss)
    with pytest.raises(ValueError, match="read-only"):
        costs.row_loss_VR[0, 0] = 1.0
    row_loss[0, 0] = 1.0


def test_single_precision_is_kept_and_added_up_in_double() -> None:
    row_loss = np.full((2, 2), 0.1, dtype=np.float32)
    costs = DenseCosts(row_loss, np.ones((2, 1), dtype=np.float32))
    assert np.shares_memory(costs.row_loss_VR, row_loss)
    assert costs.losses(slice(None))[0].dtype == np.float64
    assert costs.objective(WordTable.from_cells([0, 1], 2, 1)) == 2 * (float(np.float32(0.1)) + 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["row", "column"])
def test_a_loss_that_is_not_finite_is_refused_by_the_words_name(value: float, side: str) -> None:
    row_loss, column_loss = np.zeros((6, 2)), np.zeros((6, 3))
    (row_loss if side == "row" else column_loss)[4, 1] = value
    with pytest.raises(AllocationError, match=f"word 4 .* in {side} 1"):
        DenseCosts(row_loss, column_loss)


@pytest.mark.parametrize(
    ("row_shape", "column_shape"), [((4, 2), (3, 2)), ((4,), (4, 2)), ((4, 2), (4, 2, 1))]
)
def test_shapes_that_do_not_agree_are_refused(
    row_shape: tuple[int, ...], column_shape: tuple[int, ...]
) -> None:
    with pytest.raises(AllocationError, match="equally many words"):
        DenseCosts(np.zeros(row_shape), np.zeros(column_shape))


def test_words_without_room_are_refused() -> None:
    with pytest.raises(WordTableError, match="do not fit"):
        DenseCosts(np.zeros((5, 2)), np.zeros((5, 2)))


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(LightRNNError, match="4 words in 2 x 3 cells, expected 4 words in 2 x 2"):
        random_costs(4, 2, 2).objective(WordTable.random(4, 2, 3, seed=0))


COUNTS = np.array([5, 6, 1, 2, 3, 4])


def counted_costs() -> CellCosts:
    random = np.random.default_rng(0)
    return DenseCosts(random.exponential(size=(6, 2)), random.exponential(size=(6, 3)), COUNTS)


def test_the_stay_bonus_prices_moves_by_count_and_side() -> None:
    costs, table = counted_costs(), WordTable.from_cells([0, 1, 2, 3, 4, 5], 2, 3)
    with_bonus = with_stay_bonus(costs, table, 0.5)
    assert with_bonus.objective(table) == costs.objective(table)
    by_row, by_column = (
        more - less
        for more, less in zip(
            with_bonus.losses(slice(None)), costs.losses(slice(None)), strict=True
        )
    )
    leaves_row = np.arange(2) != table.row_of_word[:, None]
    leaves_column = np.arange(3) != table.column_of_word[:, None]
    assert by_row == pytest.approx(0.5 * COUNTS[:, None] * leaves_row)
    assert by_column == pytest.approx(0.5 * COUNTS[:, None] * leaves_column)


def test_without_a_bonus_the_costs_are_the_same() -> None:
    costs = counted_costs()
    assert with_stay_bonus(costs, WordTable.random(6, 2, 3, seed=0), 0.0) is costs


@pytest.mark.parametrize("bonus", [-0.1, np.nan, np.inf])
def test_a_senseless_bonus_is_refused(bonus: float) -> None:
    with pytest.raises(AllocationError, match="bonus"):
        with_stay_bonus(counted_costs(), WordTable.random(6, 2, 3, seed=0), bonus)


def test_senseless_counts_are_refused() -> None:
    losses = np.zeros((4, 2))
    with pytest.raises(AllocationError, match="word 2 has the count -1"):
        DenseCosts(losses, losses, [1, 0, -1, 1])
    with pytest.raises(AllocationError, match="expected one for each of 4 words"):
        DenseCosts(losses, losses, [1, 2, 3])


def factored(
    num_words: int = 9000, num_rows: int = 96, num_columns: int = 95, **changed: int
) -> FactoredCosts:
    """Random factors; where a factor's name is given, one number of it is no number.

    Args:
        changed: which entry of which factor, by position.
    """
    random = np.random.default_rng(0)
    factors = {
        "row_features": random.normal(size=(num_words, 4)).astype(np.float32),
        "column_features": random.normal(size=(num_words, 3)).astype(np.float32),
        "row_vectors": random.normal(size=(num_rows, 4)),
        "column_vectors": random.normal(size=(num_columns, 3)),
        "row_biases": random.normal(size=num_rows),
        "column_biases": random.normal(size=num_columns),
        "row_constants": random.uniform(5, 9, size=num_words),
        "column_constants": random.uniform(5, 9, size=num_words),
    }
    for name, position in changed.items():
        factors[name][position] = np.nan
    pairs = (
        (factors[f"row_{name}"], factors[f"column_{name}"])
        for name in ("features", "vectors", "biases", "constants")
    )
    return FactoredCosts(*pairs, counts=random.integers(1, 9, size=num_words))


def test_factors_give_the_losses_they_stand_for() -> None:
    costs = factored()
    table = WordTable.random(9000, 96, 95, seed=1)
    expected = 0.0
    for side, (places, losses) in enumerate(
        zip((table.row_of_word, table.column_of_word), costs.losses(slice(None)), strict=True)
    ):
        for word in (0, 4096, 8999):
            logits = costs.vectors[side] @ costs.features[side][word].astype(np.float64)
            logits += costs.counts_V[word] * costs.biases[side]
            assert losses[word] == pytest.approx(costs.constants[side][word] - logits)
        expected += losses[np.arange(9000), places].sum()
    # 9,000 words are three blocks.
    assert costs.objective(table) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("words", [slice(5, 8), np.array([8, 3, 3])])
def test_some_words_and_single_precision_have_the_same_losses(words: slice | np.ndarray) -> None:
    costs = factored()
    dense = DenseCosts(*costs.losses(slice(None)), costs.counts_V)
    penalized = with_stay_bonus(costs, WordTable.random(9000, 96, 95, seed=1), 0.25)
    for one in (costs, dense, penalized):
        every = one.losses(slice(None))
        for side, some, single in zip(
            every, one.losses(words), one.losses(words, np.float32), strict=True
        ):
            assert some == pytest.approx(side[words], rel=1e-12)
            assert single.dtype == np.float32
            above_least, expected = (x - x.min(axis=1, keepdims=True) for x in (single, some))
            assert above_least == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("side", ["row", "column"])
@pytest.mark.parametrize("factor", ["features", "constants"])
def test_a_word_of_factors_that_are_not_finite_is_named(side: str, factor: str) -> None:
    with pytest.raises(AllocationError, match=f"word 5000 has a loss by {side} that is not finite"):
        factored(**{f"{side}_{factor}": 5000})


@pytest.mark.parametrize("side", ["row", "column"])
@pytest.mark.parametrize("factor", ["vectors", "biases"])
def test_vectors_that_are_not_finite_are_refused(side: str, factor: str) -> None:
    with pytest.raises(AllocationError, match=f"output vectors of {side}s are not finite"):
        factored(**{f"{side}_{factor}": 5})


def test_factors_of_wrong_shapes_are_refused() -> None:
    costs = factored()
    with pytest.raises(AllocationError, match="features, biases and constants by column"):
        FactoredCosts(
            costs.features,
            (costs.vectors[0], costs.vectors[1][:, :2]),
            costs.biases,
            costs.constants,
            costs.counts_V,
        )
