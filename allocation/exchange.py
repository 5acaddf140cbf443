"""Step 2 of a reallocation: every rank's sums added up, and left with the words' owners.

`dense` leaves all words with rank 0; `sharded` leaves every rank an equal share of them, which it
prunes to candidates for rank 0 (see `allocation.sharded_costs`). Both hold the same numbers.

Legend: V words, N own words, R rows, C columns, F features, S sums a word.
"""

import math
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from allocation.collectives import run_together
from allocation.communicators import Communicator
from allocation.costs import CellCosts, DenseCosts, FactoredCosts, LossArray
from allocation.errors import AllocationError
from allocation.fixed_point import SingleArray, shorten
from allocation.statistics import WordStatistics, standard_error
from allocation.storage import Storage

ExchangeMode = Literal["dense", "sharded"]

SUM_BYTES, LINE_BYTES, TAIL_BYTES = 8, 2 + 4, 8
"""A sum in float64; a candidate row's number and loss; what is known of the other rows."""


@dataclass(frozen=True, eq=False)
class Exchanged:
    """What the exchange leaves.

    Attributes:
        costs: of this rank's words only, summed over all ranks.
        words: which these are, in order.
        counts_V: occurrences of each word over all ranks, float64; on every rank.
        row_nll, column_nll: measured losses over all ranks, nats; on every rank.
        standard_error: of the mean loss, nats a token; on every rank.
        bytes_sent: what this rank handed to collectives.
        seconds: time it took.
    """

    costs: CellCosts
    words: range
    counts_V: LossArray
    row_nll: float
    column_nll: float
    standard_error: float
    bytes_sent: int
    seconds: float


def exchange(
    statistics: WordStatistics,
    communicator: Communicator,
    mode: ExchangeMode = "dense",
    storage: Storage | None = None,
) -> Exchanged:
    """Add up all ranks' sums block by block, each block on the rank that owns its words.

    The sums are exact, so nothing depends on the number of ranks or the order of addition. Only
    then are they rounded: hidden states by `shorten`, losses to float32, which moves a loss by at
    most 2^-24 of itself. A rank's memory beside its statistics: two blocks, and float32
    [N, R + C] or [N, 2 H] and float64 [N, 2] of its own words.

    Args:
        statistics: of this rank's lanes; stays as it is.
        communicator: all ranks.
        mode: `dense` or `sharded`.
        storage: where the own words' sums go; without it into memory.

    Raises:
        LightRNNError: on every rank, where a word's loss is not finite, or there is no room.
    """
    started, sent_before = time.perf_counter(), communicator.bytes_sent
    counts_V = statistics.counts_V.cpu().numpy().copy()
    measured = np.concatenate(
        [statistics.measured.cpu().numpy(), statistics.moments.cpu().numpy().ravel()]
    )
    for small in (counts_V, measured):
        communicator.all_reduce(small)
    shares = shares_of_words(statistics.num_words, communicator.world_size, mode)
    words = shares[communicator.rank]
    own = run_together(lambda: _OwnSums(statistics, words, storage or Storage()), communicator)
    words_per_block = max(1, communicator.block_bytes // (SUM_BYTES * statistics.sums_VS.shape[1]))
    for owner, share in enumerate(shares):
        for start in range(0, len(share), words_per_block):
            block = share[start : start + words_per_block]
            sums_NS = statistics.block(slice(block.start, block.stop, block.step))
            communicator.reduce(sums_NS, owner)
            if owner == communicator.rank:
                own.put(start, sums_NS)
    costs = run_together(lambda: own.costs(counts_V[words]), communicator)
    row_nll, column_nll, *moments = measured.tolist()
    return Exchanged(
        costs,
        words,
        counts_V,
        row_nll,
        column_nll,
        standard_error(np.reshape(moments, (3, 3))),
        communicator.bytes_sent - sent_before,
        time.perf_counter() - started,
    )


def shares_of_words(num_words: int, world_size: int, mode: ExchangeMode) -> list[range]:
    """Return which words each rank owns.

    Shares interleave: word `w` belongs to rank `w % world_size`. So whatever words a solver asks
    for, as the most frequent ones, all ranks work on their answer.

    Raises:
        AllocationError: there is no such mode.
    """
    if mode == "dense":
        return [range(num_words), *(range(0) for _ in range(1, world_size))]
    if mode == "sharded":
        return [range(rank, num_words, world_size) for rank in range(world_size)]
    raise AllocationError(f"allocation.exchange={mode!r} is unknown; use one of dense, sharded")


class _OwnSums:
    """The sums of the words that a rank owns, rounded block by block, and the costs from them."""

    def __init__(self, statistics: WordStatistics, words: range, storage: Storage) -> None:
        self.statistics, self.words = statistics, words
        self.sums: list[SingleArray] = [
            storage.zeros(len(words), width, dtype=torch.float32).numpy()
            for width in statistics.widths
        ]
        self.normalizers_N2 = np.zeros((len(words), 2))
        self.not_finite: int | None = None

    def put(self, start: int, sums_NS: LossArray) -> None:
        """Take the sums of all ranks for the own words from number `start` on."""
        wrong = np.flatnonzero(~np.isfinite(sums_NS).all(axis=1))
        if len(wrong) and self.not_finite is None:
            # Told in the end: the other ranks are on their way to the next block.
            self.not_finite = self.words[start + int(wrong[0])]
        own = slice(start, start + len(sums_NS))
        row_width, both_widths = self.statistics.widths[0], sum(self.statistics.widths)
        by_side = sums_NS[:, :row_width], sums_NS[:, row_width:both_widths]
        is_hidden = self.statistics.kind == "hidden"
        for kept, sums in zip(self.sums, by_side, strict=True):
            kept[own] = shorten(sums) if is_hidden else sums
        if is_hidden:
            self.normalizers_N2[own] = sums_NS[:, both_widths:]

    def costs(self, counts_N: LossArray) -> CellCosts:
        """Return the costs of the own words."""
        if self.not_finite is not None:
            raise AllocationError(
                f"word {self.not_finite} has losses that are not finite, expected finite losses; "
                "check the model's parameters and the training loss"
            )
        by_row, by_column = self.sums
        if self.statistics.kind == "losses":
            return DenseCosts(by_row, by_column, counts_N)
        heads = [
            (head.weight.detach().float().cpu().numpy(), head.bias.detach().double().cpu().numpy())
            for head in self.statistics.heads
        ]
        (row_vectors, row_biases), (column_vectors, column_biases) = heads
        return FactoredCosts(
            (by_row, by_column),
            (shorten(row_vectors), shorten(column_vectors)),
            (row_biases, column_biases),
            (self.normalizers_N2[:, 0], self.normalizers_N2[:, 1]),
            counts_N,
        )


def bytes_exchanged(
    num_words: int,
    num_rows: int,
    num_columns: int,
    hidden_size: int,
    num_candidates: int,
    world_size: int,
    mode: ExchangeMode,
) -> int:
    """Return how many bytes a rank hands over until rank 0 can solve.

    That is what it adds to the sums, and the candidates of its own words where they are sharded.
    Left out are headers and errors, some hundred bytes, and what the solver asks for later.

    Args:
        num_words, num_rows, num_columns, hidden_size: V, R, C, H.
        num_candidates: rows and columns a word that go to rank 0 where the words are sharded.
        world_size: number of processes.
        mode: `dense` or `sharded`.
    """
    sums_a_word = min(2 * hidden_size + 2, num_rows + num_columns)
    summed = SUM_BYTES * num_words * (sums_a_word + 1)
    if mode == "dense" or world_size == 1:
        return summed
    lines = min(num_candidates, num_rows) + min(num_candidates, num_columns)
    return summed + math.ceil(num_words / world_size) * (LINE_BYTES * lines + 2 * TAIL_BYTES)
