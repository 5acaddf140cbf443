"""Pairs of neighbours are counted exactly, by any number of processes, in runs of any length."""

import itertools
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import torch.distributed as dist
from distributed import run_distributed
from warm_start_texts import ArrayTokens, the_communicator, zipf_text

from allocation import AllocationError
from allocation.warm_start import neighbours
from allocation.warm_start.neighbours import count_neighbours

NUM_WORDS, NUM_CONTEXTS = 40, 12
TEXT = zipf_text(NUM_WORDS, 3_000, seed=1)
WORD_COUNTS = np.bincount(TEXT, minlength=NUM_WORDS)


def counted(tokens_per_run: int, pairs_per_range: int) -> list[np.ndarray] | None:
    """Return the counts after and before each context on rank 0, densely."""
    with (
        mock.patch.object(neighbours, "TOKENS_PER_RUN", tokens_per_run),
        mock.patch.object(neighbours, "PAIRS_PER_RANGE", pairs_per_range),
    ):
        found = count_neighbours(ArrayTokens(TEXT), WORD_COUNTS, NUM_CONTEXTS, the_communicator())
    return found and [found.after.toarray(), found.before.toarray()]


def counted_plainly() -> list[np.ndarray]:
    contexts = sorted(range(NUM_WORDS), key=lambda word: (-WORD_COUNTS[word], word))[:NUM_CONTEXTS]
    text = [ArrayTokens.END_OF_LINE, *TEXT.tolist()]
    pairs = Counter(itertools.pairwise(text))
    after = [[pairs[context, word] for context in contexts] for word in range(NUM_WORDS)]
    before = [[pairs[word, context] for context in contexts] for word in range(NUM_WORDS)]
    return [np.array(after), np.array(before)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(
    ("tokens_per_run", "pairs_per_range"), [(10**6, 10**6), (97, 100), (1000, 1)]
)
def test_counts_are_exact(world_size: int, tokens_per_run: int, pairs_per_range: int) -> None:
    on_root, *on_others = run_distributed(counted, world_size, tokens_per_run, pairs_per_range)
    for found, expected in zip(on_root, counted_plainly(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert on_others == [None] * (world_size - 1)


def test_text_shorter_than_there_are_processes() -> None:
    def count() -> float | None:
        found = count_neighbours(ArrayTokens(np.array([1])), [0, 1], 2, the_communicator())
        return found and float(found.after.sum() + found.before.sum())

    assert run_distributed(count, 3) == [2.0, None, None]


def test_a_full_disk_is_told_on_every_rank() -> None:
    def fails(part: object) -> None:
        raise AllocationError("/tmp has no room")

    def count() -> str:
        with mock.patch.object(
            neighbours.GrowingFile, "append", side_effect=fails if dist.get_rank() == 1 else None
        ):
            try:
                count_neighbours(ArrayTokens(TEXT), WORD_COUNTS, 5, the_communicator())
            except ValueError as error:
                return str(error)
        return ""

    assert run_distributed(count, 2) == ["/tmp has no room"] * 2
