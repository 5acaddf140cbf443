"""The losses of all ranks, added up block by block, are those of one process.

Legend: V words, R rows, C columns.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from distributed import run_distributed
from random_models import lanes_of_rank, random_batches, random_model

from allocation import WordStatistics, collect_statistics, exchange_dense
from allocation.exchange import BLOCK_BYTES, Exchanged

NUM_WORDS, NUM_ROWS, NUM_COLUMNS = 37, 6, 8
LENGTHS = (23, 22, 23, 9, 22)
WORD_BYTES = 8 * (NUM_ROWS + NUM_COLUMNS)
BLOCKS = (1, WORD_BYTES, 5 * WORD_BYTES + 3, 37 * WORD_BYTES, BLOCK_BYTES)
NUM_BLOCKS = (37, 37, 8, 1, 1)

MODEL, TABLE = random_model(NUM_WORDS, NUM_ROWS, NUM_COLUMNS)
_, BATCHES = random_batches(NUM_WORDS, LENGTHS, bptt=5)


@dataclass(frozen=True)
class Seen:
    """What one rank saw of an exchange."""

    exchanged: Exchanged
    largest_message_bytes: int
    num_reduced: int
    statistics_unchanged: bool


def statistics_of(rank: int, world_size: int) -> WordStatistics:
    return collect_statistics(MODEL, lanes_of_rank(BATCHES, rank, world_size))


def contents(statistics: WordStatistics) -> list[torch.Tensor]:
    held = (*statistics.hidden_sums, *statistics.log_normalizer_sums)
    return [tensor.clone() for tensor in (*held, statistics.counts, statistics.measured)]


def exchange_all(blocks: Sequence[int]) -> list[Seen]:
    """Exchange the same statistics once for each size of a block, watching the messages."""
    group = dist.group.WORLD
    assert group is not None
    statistics = statistics_of(dist.get_rank(), dist.get_world_size())
    before = contents(statistics)
    messages: list[int] = []

    def reduce(tensor: torch.Tensor, **options) -> None:
        messages.append(tensor.nbytes)
        original(tensor, **options)

    original, dist.reduce = dist.reduce, reduce
    seen = []
    for block_bytes in blocks:
        messages.clear()
        exchanged = exchange_dense(statistics, TABLE, group, block_bytes)
        unchanged = all(map(torch.equal, before, contents(statistics)))
        seen.append(Seen(exchanged, max(messages), len(messages), unchanged))
    return seen


@functools.cache
def exchanged_by(world_size: int) -> list[list[Seen]]:
    """Return what each rank saw for each size of a block."""
    return run_distributed(exchange_all, world_size, BLOCKS)


def summed(world_size: int) -> tuple[npt.NDArray[np.float64], float, float]:
    """Return the losses [V, R + C] and what was measured, added up without any exchange."""
    parts = [statistics_of(rank, world_size) for rank in range(world_size)]
    losses = sum(part.losses(0, NUM_WORDS).numpy() for part in parts)
    row_nll, column_nll = (sum(float(part.measured[side]) for part in parts) for side in range(2))
    return losses, row_nll, column_nll


every_world_size = pytest.mark.parametrize("world_size", [1, 2, 4])
every_block = pytest.mark.parametrize("block", range(len(BLOCKS)))


@every_world_size
@every_block
def test_the_sums_are_those_without_an_exchange(world_size: int, block: int) -> None:
    ranks = [seen[block].exchanged for seen in exchanged_by(world_size)]
    losses, row_nll, column_nll = summed(world_size)
    assert ranks[0].losses is not None
    row_loss, column_loss = ranks[0].losses
    assert (row_loss.shape, column_loss.shape) == ((37, NUM_ROWS), (37, NUM_COLUMNS))
    np.testing.assert_allclose(row_loss, losses[:, :NUM_ROWS], rtol=0, atol=1e-9)
    np.testing.assert_allclose(column_loss, losses[:, NUM_ROWS:], rtol=0, atol=1e-9)
    counts = collect_statistics(MODEL, BATCHES).counts.tolist()
    for exchanged in ranks:
        assert exchanged.counts.tolist() == counts
        assert exchanged.row_nll == pytest.approx(row_nll, rel=1e-12)
        assert exchanged.column_nll == pytest.approx(column_nll, rel=1e-12)


@pytest.mark.parametrize("world_size", [2, 4])
@every_block
def test_more_processes_find_what_one_finds(world_size: int, block: int) -> None:
    one, more = (exchanged_by(size)[0][block].exchanged for size in (1, world_size))
    assert one.losses is not None
    assert more.losses is not None
    # Lanes run side by side in other groups round their hidden states otherwise, in float32.
    for side in range(2):
        np.testing.assert_allclose(more.losses[side], one.losses[side], rtol=1e-6, atol=1e-6)
    assert more.row_nll == pytest.approx(one.row_nll, rel=1e-6)


@every_world_size
def test_only_rank_0_gets_the_losses(world_size: int) -> None:
    for rank, seen in enumerate(exchanged_by(world_size)):
        assert all((one.exchanged.losses is not None) == (rank == 0) for one in seen)


@every_world_size
def test_the_statistics_stay_as_they_are(world_size: int) -> None:
    assert all(one.statistics_unchanged for seen in exchanged_by(world_size) for one in seen)


@every_world_size
@every_block
def test_no_message_is_larger_than_a_block(world_size: int, block: int) -> None:
    for seen in exchanged_by(world_size):
        assert seen[block].num_reduced == NUM_BLOCKS[block]
        assert seen[block].largest_message_bytes <= max(BLOCKS[block], WORD_BYTES)
        # All losses, the counts and the two sums measured: whatever the blocks.
        expected = 37 * WORD_BYTES + 8 * 37 + 8 * 2
        assert seen[block].exchanged.bytes_sent == expected
