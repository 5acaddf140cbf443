"""Sums of hidden states hold the loss of every word in every row and column.

Legend: B lanes, T words, V words of the vocabulary, R rows, C columns.
"""

from collections.abc import Iterator
from typing import get_args

import pytest
import torch
from random_models import Batches, lanes_of_rank, random_batches, random_model
from torch import Tensor

from allocation import WordStatistics, collect_statistics
from lightrnn import LightRNN, sum_losses
from lightrnn.model import NO_WORD, Cell

NUM_WORDS, LENGTHS, BPTT = 40, (23, 22, 23, 9, 22), 5


def small_problem(cell: Cell = "lstm", num_layers: int = 1) -> tuple[LightRNN, Batches]:
    model, _ = random_model(NUM_WORDS, 6, 8, cell=cell, num_layers=num_layers, dropout=0.3)
    return model, random_batches(NUM_WORDS, LENGTHS, BPTT)[1]


def losses_of(statistics: WordStatistics, words: slice) -> Tensor:
    """Return the sums of some words, which are losses by row and column where these are fewer."""
    return torch.from_numpy(statistics.block(words))


@torch.no_grad()
def direct_losses(model: LightRNN, batches: Batches) -> Tensor:
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
    return losses


@pytest.mark.parametrize("cell", get_args(Cell))
@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_losses_are_those_added_up_one_by_one(cell: Cell, num_layers: int) -> None:
    model, batches = small_problem(cell, num_layers)
    statistics = collect_statistics(model, batches)
    expected = direct_losses(model, batches)
    found = losses_of(statistics, slice(0, NUM_WORDS))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, atol=1e-4 * sum(LENGTHS), rtol=0)
    # Far tighter by word, and the words do differ: a mean in place of the sums would be seen.
    per_token = expected / statistics.counts_V.clamp(min=1)[:, None]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert float(per_token[statistics.counts_V > 0].std(0).max()) > 0.1


def test_any_block_of_words_has_the_losses_of_its_words() -> None:
    statistics = collect_statistics(*small_problem())
    whole = losses_of(statistics, slice(0, NUM_WORDS))
    for start, stop in ((0, 1), (7, 19), (39, 40), (5, 5)):
        torch.testing.assert_close(
            losses_of(statistics, slice(start, stop)), whole[start:stop], atol=1e-9, rtol=0
        )
    assert torch.equal(losses_of(statistics, slice(0, NUM_WORDS)), whole)


def test_what_is_measured_is_what_the_model_loses() -> None:
    model, batches = small_problem()
    statistics = collect_statistics(model, batches)
    row_nll, column_nll, tokens = sum_losses(model, batches).tolist()
    assert statistics.measured.tolist() == pytest.approx([row_nll, column_nll], rel=1e-6)
    assert float(statistics.counts_V.sum()) == tokens == sum(LENGTHS)
    # The same again from the losses, each word in the cell where it is.
    losses = losses_of(statistics, slice(0, NUM_WORDS))
    words = torch.arange(NUM_WORDS)
    in_force = [
        float(losses[words, model.row_of_word.long()].sum()),
        float(losses[words, 6 + model.column_of_word.long()].sum()),
    ]
    assert in_force == pytest.approx([row_nll, column_nll], rel=1e-6)


def test_words_are_counted_without_padding() -> None:
    model, batches = small_problem()
    targets = torch.cat([targets for _, targets in batches], dim=1)
    expected = torch.bincount(targets[targets != NO_WORD].long(), minlength=NUM_WORDS)
    assert collect_statistics(model, batches).counts_V.tolist() == expected.tolist()


def test_the_lanes_of_all_ranks_add_up() -> None:
    model, batches = small_problem()
    whole = collect_statistics(model, batches)
    parts = [collect_statistics(model, lanes_of_rank(batches, rank, 3)) for rank in range(3)]
    total = sum(losses_of(part, slice(0, NUM_WORDS)) for part in parts)
    torch.testing.assert_close(total, losses_of(whole, slice(0, NUM_WORDS)), atol=1e-4, rtol=1e-5)
    assert sum(part.counts_V for part in parts).tolist() == whole.counts_V.tolist()


def test_a_rank_without_lanes_adds_nothing() -> None:
    model, _ = small_problem()
    statistics = collect_statistics(model, [])
    assert not losses_of(statistics, slice(0, NUM_WORDS)).any()
    assert not statistics.counts_V.any()
    assert not statistics.measured.any()


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_dropped_and_the_mode_is_put_back(training: bool) -> None:
    model, batches = small_problem()
    expected = losses_of(collect_statistics(model, batches), slice(0, NUM_WORDS))
    model.train(training)
    assert torch.equal(losses_of(collect_statistics(model, batches), slice(0, NUM_WORDS)), expected)
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
