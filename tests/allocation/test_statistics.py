"""Sums of hidden states, or of losses, hold the loss of every word in every row and column.

Legend: B lanes, T words, V words of the vocabulary, R rows, C columns, H hidden.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from random_models import Batches, lanes_of_rank, random_batches, random_model
from torch import Tensor

from allocation import (
    SingleProcess,
    StatisticsKind,
    Storage,
    WordStatistics,
    collect_statistics,
    exchange,
)
from allocation.fixed_point import STATE_STEP
from allocation.statistics import standard_error
from lightrnn import LightRNN, sum_losses
from lightrnn.model import NO_WORD, Cell

NUM_WORDS, LENGTHS, BPTT = 40, (23, 22, 23, 9, 22), 5


def small_problem(
    cell: Cell = "lstm", num_layers: int = 1, word_size: int = 0
) -> tuple[LightRNN, Batches]:
    model, _ = random_model(
        *(NUM_WORDS, 6, 8), cell=cell, num_layers=num_layers, word_size=word_size, dropout=0.3
    )
    return model, random_batches(NUM_WORDS, LENGTHS, BPTT)[1]


def losses_of(statistics: WordStatistics) -> npt.NDArray[np.float64]:
    """Return the losses of all words in all rows, then columns, [V, R + C]."""
    costs = exchange(statistics, SingleProcess()).costs
    return np.concatenate(costs.losses(slice(None)), axis=1)


def contents(statistics: WordStatistics) -> list[Tensor]:
    held = statistics.sums_VS, statistics.counts_V, statistics.measured, statistics.moments
    return [tensor.clone() for tensor in held]


every_kind = pytest.mark.parametrize("kind", ["hidden", "losses"])


@torch.no_grad()
def direct_losses(model: LightRNN, batches: Batches) -> npt.NDArray[np.float64]:
    """Return -log P of every row and column at every occurrence, summed by word, [V, R + C]."""
    shape = model.shape
    losses = torch.zeros(model.num_words, shape.num_rows + shape.num_columns, dtype=torch.float64)
    state = model.initial_state(len(batches[0][0]))
    for inputs, targets in batches:
        for_row, for_column, state = model.hidden_states(inputs, targets, state)
        row_nll = -model.row_head(for_row).double().log_softmax(-1)
        column_nll = -model.column_head(for_column).double().log_softmax(-1)
        nll = torch.cat([row_nll, column_nll], dim=-1)
        for lane, step in (targets != NO_WORD).nonzero().tolist():
            losses[targets[lane, step]] += nll[step, lane]
    return losses.numpy()


@every_kind
@pytest.mark.parametrize("cell", get_args(Cell))
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_losses_are_those_added_up_one_by_one(
    cell: Cell, num_layers: int, kind: StatisticsKind
) -> None:
    model, batches = small_problem(cell, num_layers)
    statistics = collect_statistics(model, batches, kind)
    assert statistics.kind == kind
    expected = direct_losses(model, batches)
    # Far less a word than a token's loss, and the words do differ: a mean would be seen.
    np.testing.assert_allclose(losses_of(statistics), expected, atol=1e-4, rtol=1e-5)
    per_token = expected / statistics.counts_V.clamp(min=1).numpy()[:, None]
    assert per_token[statistics.counts_V.numpy() > 0].std(axis=0).max() > 0.1


@pytest.mark.parametrize(("num_lines", "kind"), [(14, "losses"), (15, "hidden")])
def test_the_smaller_kind_is_chosen(num_lines: int, kind: str) -> None:
    # 2 * 6 + 2 sums of hidden states and of normalisers.
    model, _ = random_model(NUM_WORDS, num_lines - 8, 8, hidden_size=6)
    statistics = WordStatistics(model)
    assert statistics.kind == kind
    assert statistics.sums_VS.shape == (NUM_WORDS, 14)


def test_both_kinds_agree() -> None:
    model, batches = small_problem()
    hidden, losses = (collect_statistics(model, batches, kind) for kind in ("hidden", "losses"))
    scale = hidden.counts_V.clamp(min=1).numpy()[:, None]
    difference = np.abs(losses_of(hidden) - losses_of(losses)) / scale
    assert 0 < difference.max() < 5e-6
    for first, second in zip(contents(hidden)[1:], contents(losses)[1:], strict=True):
        assert torch.equal(first, second)


@every_kind
def test_what_is_measured_is_what_the_model_loses(kind: StatisticsKind) -> None:
    model, batches = small_problem()
    statistics = collect_statistics(model, batches, kind)
    row_nll, column_nll, tokens = sum_losses(model, batches).tolist()
    assert statistics.measured.tolist() == pytest.approx([row_nll, column_nll], rel=1e-6)
    assert float(statistics.counts_V.sum()) == tokens == sum(LENGTHS)
    # The same again from the losses, each word in the cell where it is.
    losses, words = losses_of(statistics), np.arange(NUM_WORDS)
    in_force = [
        losses[words, model.row_of_word.numpy()].sum(),
        losses[words, 6 + model.column_of_word.numpy()].sum(),
    ]
    assert in_force == pytest.approx([row_nll, column_nll], rel=1e-6)


@every_kind
@pytest.mark.parametrize("carry_state", [True, False])
def test_states_are_carried_on_where_they_are_in_training(
    kind: StatisticsKind, carry_state: bool
) -> None:
    model, batches = small_problem()
    statistics = collect_statistics(model, batches, kind, carry_state=carry_state)
    nll = sum_losses(model, batches, carry_state=carry_state)[:2]
    assert statistics.measured.tolist() == pytest.approx(nll.tolist(), rel=1e-6)
    other = sum_losses(model, batches, carry_state=not carry_state)[:2]
    assert statistics.measured.tolist() != pytest.approx(other.tolist(), rel=1e-3)


@every_kind
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_no_split_and_no_order_changes_a_bit(kind: StatisticsKind, world_size: int) -> None:
    model, batches = small_problem()
    pieces = [
        (targets[lane : lane + 1], tuple(hidden[:, lane : lane + 1] for hidden in both))
        for targets, both in states_of(model, batches)
        for lane in range(len(targets))
    ]
    whole = add_all(model, kind, pieces)
    parts = [
        add_all(model, kind, list(reversed(pieces[rank::world_size]))) for rank in range(world_size)
    ]
    for expected, *found in zip(contents(whole), *map(contents, parts), strict=True):
        total = torch.stack(list(reversed(found))).sum(0)
        if expected.shape == (3, 3):
            torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
        else:
            assert torch.equal(total, expected)


@torch.no_grad()
def states_of(model: LightRNN, batches: Batches) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Yield the targets [B, T] of each batch with the states [T, B, H] that predict them."""
    state = model.initial_state(len(batches[0][0]))
    for inputs, targets in batches:
        for_row, for_column, state = model.hidden_states(inputs, targets, state)
        yield targets, (for_row, for_column)


@torch.no_grad()
def add_all(model: LightRNN, kind: StatisticsKind, pieces: list) -> WordStatistics:
    statistics = WordStatistics(model, kind)
    for targets, hidden in pieces:
        statistics.add(model, targets, hidden)
    return statistics


@torch.no_grad()
def test_a_frequent_words_sum_is_exact_and_near_the_true_one() -> None:
    model, _ = small_problem()
    generator = torch.Generator().manual_seed(0)
    num_tokens = 50_000
    # Biased, as trained states are: float32 sums would be off by far more than the bound.
    hidden = 0.9 - 0.3 * torch.rand(num_tokens, 1, 6, generator=generator)
    targets = torch.full((1, num_tokens), 3, dtype=torch.int32)
    statistics = WordStatistics(model, "hidden")
    statistics.add(model, targets, (hidden, -hidden))
    for feature in range(6):
        states = hidden[:, 0, feature]
        true = math.fsum(states.tolist())
        rounded = [round(state / STATE_STEP) for state in states.tolist()]
        for found, sign in ((feature, 1), (6 + feature, -1)):
            total = float(statistics.sums_VS[3, found])
            assert total == sign * sum(rounded) * STATE_STEP
            assert abs(total - sign * true) <= num_tokens * STATE_STEP / 2
    assert not statistics.sums_VS[[0, 1, 2, 4]].any()


@every_kind
def test_sums_in_a_file_are_those_in_memory(tmp_path: Path, kind: StatisticsKind) -> None:
    model, batches = small_problem()
    in_memory = collect_statistics(model, batches, kind)
    in_file = collect_statistics(model, batches, kind, Storage(0, tmp_path))
    assert all(map(torch.equal, contents(in_memory), contents(in_file)))
    np.testing.assert_array_equal(losses_of(in_memory), losses_of(in_file))
    assert list(tmp_path.iterdir()) == []


@every_kind
@torch.no_grad()
def test_own_vectors_go_with_the_words_to_any_column(kind: StatisticsKind) -> None:
    model, batches = small_problem(word_size=3)
    statistics = collect_statistics(model, batches, kind)
    measured = sum_losses(model, batches)[:2].tolist()
    assert statistics.measured.tolist() == pytest.approx(measured, rel=1e-6)
    losses = losses_of(statistics)
    words = np.arange(NUM_WORDS)
    rows, columns = model.row_of_word.numpy(), model.column_of_word.numpy()
    in_own_columns = losses[words, 6 + columns]
    assert losses[words, rows].sum() == pytest.approx(measured[0], rel=1e-5)
    assert in_own_columns.sum() == pytest.approx(measured[1], rel=1e-5)
    # From column to column only the part of the columns' vectors changes.
    expected = direct_losses(model, batches)[:, 6:]
    np.testing.assert_allclose(
        losses[:, 6:] - in_own_columns[:, None],
        expected - expected[words, columns, None],
        atol=1e-4,
        rtol=1e-5,
    )


def test_a_block_is_a_copy_of_its_words_sums() -> None:
    statistics = collect_statistics(*small_problem())
    for words in (slice(0, 0), slice(7, 19), slice(3, NUM_WORDS, 4)):
        block = statistics.block(words)
        np.testing.assert_array_equal(block, statistics.sums_VS[words].numpy())
        before = statistics.sums_VS.clone()
        block[:] = -1
        assert torch.equal(statistics.sums_VS, before)


@torch.no_grad()
def test_the_standard_error_is_that_of_the_pieces() -> None:
    model, batches = small_problem()
    statistics = collect_statistics(model, batches)
    nats, tokens = [], []
    for targets, (for_row, for_column) in states_of(model, batches):
        for lane in range(len(targets)):
            real = targets[lane] != NO_WORD
            words = targets[lane][real].long()
            if not len(words):
                continue
            row_nll = -model.row_head(for_row[real, lane]).log_softmax(-1)
            column_nll = -model.column_head(for_column[real, lane]).log_softmax(-1)
            every = torch.arange(len(words))
            own = row_nll[every, model.row_of_word[words].long()]
            own = own + column_nll[every, model.column_of_word[words].long()]
            nats.append(float(own.sum()))
            tokens.append(len(words))
    mean = sum(nats) / sum(tokens)
    residuals = np.array(nats) - mean * np.array(tokens)
    expected = math.sqrt(len(nats) / (len(nats) - 1) * (residuals**2).sum()) / sum(tokens)
    found = standard_error(statistics.moments.numpy())
    assert found == pytest.approx(expected, rel=1e-4)
    assert found > 0


def test_the_standard_error_tells_how_means_of_samples_scatter() -> None:
    random = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(1000):
        tokens = random.integers(1, 30, size=200)
        nats = tokens * random.normal(5, 1, size=200)
        pieces = np.stack([np.ones(200), tokens, nats])
        means.append(nats.sum() / tokens.sum())
        errors.append(standard_error(pieces @ pieces.T))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_one_piece_tells_nothing_of_its_error() -> None:
    piece = np.array([1.0, 30.0, 150.0])
    assert math.isnan(standard_error(np.outer(piece, piece)))
    assert math.isnan(standard_error(np.zeros((3, 3))))
    assert standard_error(2 * np.outer(piece, piece)) == pytest.approx(0, abs=1e-6)


def test_words_are_counted_without_padding() -> None:
    model, batches = small_problem()
    targets = torch.cat([targets for _, targets in batches], dim=1)
    expected = torch.bincount(targets[targets != NO_WORD].long(), minlength=NUM_WORDS)
    assert collect_statistics(model, batches).counts_V.tolist() == expected.tolist()


def test_the_lanes_of_all_ranks_add_up() -> None:
    model, batches = small_problem()
    whole = contents(collect_statistics(model, batches))
    parts = [
        contents(collect_statistics(model, lanes_of_rank(batches, rank, 3))) for rank in range(3)
    ]
    for expected, *found in zip(whole, *parts, strict=True):
        # Lanes run side by side in other groups round their hidden states otherwise, in float32.
        torch.testing.assert_close(sum(found), expected, atol=1e-4, rtol=1e-5)


@every_kind
def test_a_rank_without_lanes_adds_nothing(kind: StatisticsKind) -> None:
    model, _ = small_problem()
    assert not any(held.any() for held in contents(collect_statistics(model, [], kind)))


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_dropped_and_the_mode_is_put_back(training: bool) -> None:
    model, batches = small_problem()
    expected = contents(collect_statistics(model, batches))
    model.train(training)
    found = contents(collect_statistics(model, batches))
    assert all(map(torch.equal, found, expected))
    assert all(module.training is training for module in model.modules())


def test_the_mode_is_put_back_after_an_error_too() -> None:
    model, whole = small_problem()
    model.train()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield whole[0]
        raise OSError("the corpus is gone")

    with pytest.raises(OSError, match="gone"):
        collect_statistics(model, batches())
    assert model.training
