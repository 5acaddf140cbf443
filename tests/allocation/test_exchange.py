"""The sums of all ranks, added up block by block, are those of one process.

Legend: V words, R rows, C columns.
"""

import functools
from typing import get_args

import numpy as np
import pytest
import torch.distributed as dist
from distributed import run_distributed
from random_models import lanes_of_rank, random_batches, random_model

from allocation import ExchangeMode, TorchCommunicator, collect_statistics, exchange

NUM_WORDS, NUM_ROWS, NUM_COLUMNS = 37, 6, 8
LENGTHS = (23, 22, 23, 9, 22)

MODEL, TABLE = random_model(NUM_WORDS, NUM_ROWS, NUM_COLUMNS)
_, BATCHES = random_batches(NUM_WORDS, LENGTHS, bptt=5)

Seen = tuple[range, list[np.ndarray], np.ndarray, float, int]


def exchange_here(mode: ExchangeMode, block_bytes: int) -> Seen:
    """Return this rank's words, their losses, all counts, the loss measured, and the bytes sent."""
    assert dist.group.WORLD is not None
    communicator = TorchCommunicator(dist.group.WORLD, block_bytes=block_bytes)
    lanes = lanes_of_rank(BATCHES, communicator.rank, communicator.world_size)
    found = exchange(collect_statistics(MODEL, lanes), communicator, mode)
    losses = list(found.costs.losses(slice(None))) if len(found.words) else []
    return found.words, losses, found.counts_V, found.row_nll + found.column_nll, found.bytes_sent


@functools.cache
def exchanged_by(world_size: int, mode: ExchangeMode, block_bytes: int) -> list[Seen]:
    return run_distributed(exchange_here, world_size, mode, block_bytes)


every_mode = pytest.mark.parametrize("mode", get_args(ExchangeMode))
every_block = pytest.mark.parametrize("block_bytes", [256, 1000, 1 << 20])


@every_mode
@every_block
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_word_is_owned_once_and_costs_what_one_process_finds(
    world_size: int, mode: ExchangeMode, block_bytes: int
) -> None:
    (all_words, expected, counts, loss, _), *_ = exchanged_by(1, "dense", 1 << 20)
    assert list(all_words) == list(range(NUM_WORDS))
    seen = exchanged_by(world_size, mode, block_bytes)
    assert sorted(word for words, *_ in seen for word in words) == list(range(NUM_WORDS))
    for words, losses, rank_counts, rank_loss, _ in seen:
        assert rank_counts.tolist() == counts.tolist()
        assert rank_loss == pytest.approx(loss, rel=1e-6)
        for side, found in enumerate(losses):
            # Lanes run side by side in other groups round their hidden states otherwise.
            np.testing.assert_allclose(found, expected[side][list(words)], rtol=1e-5, atol=1e-5)


@every_block
@pytest.mark.parametrize("world_size", [2, 4])
def test_both_ways_leave_the_same_bits(world_size: int, block_bytes: int) -> None:
    dense, *others = exchanged_by(world_size, "dense", block_bytes)
    assert all(len(words) == 0 for words, *_ in others)
    for words, losses, *_ in exchanged_by(world_size, "sharded", block_bytes):
        for side, found in enumerate(losses):
            np.testing.assert_array_equal(found, dense[1][side][list(words)])
