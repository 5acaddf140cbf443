"""Batches of whole rows: a sentence a lane and step, each read without what stood before it.

The rows of an epoch's order are taken in pools; within a pool they are sorted by length and cut
into batches of B rows, so that a batch has little padding, and the batches are shuffled. All of it
is a pure function of (seed, epoch, step) and of the rows' lengths.

Legend: B lanes in all, L lanes of one process, T words of the longest row of a batch, P rows of a
pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_shards.batches import PADDING, Batch, check_num_lanes, check_step
from data_shards.corpus import OpenShard
from data_shards.errors import CorpusError
from data_shards.manifest import Shard
from data_shards.row_order import Positions, RowOrder, permutation
from data_shards.shards import Ids

POOL_BATCHES = 256
"""Batches of a pool; the last one may have fewer."""

_BATCH_ORDER = 1
"""Told apart from the order of rows in the keys of `permutation`."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The rows of a pool.

    Attributes:
        shards: those that the rows lie in.
        shard_of_row: number of each row's shard among `shards`, int64 [P].
        starts: position in its shard of each row's first word, int64 [P].
        lengths: words of each row, int64 [P].
        batches: the rows of each batch, shortest first.
    """

    shards: tuple[OpenShard, ...]
    shard_of_row: Positions
    starts: Positions
    lengths: Positions
    batches: tuple[Positions, ...]

    def words(self, rows: Positions) -> Ids:
        """Return the words of some rows, one row after the other."""
        parts = [np.empty(0, dtype=np.int32)]
        columns = (self.shard_of_row, self.starts, self.lengths)
        for shard, start, length in zip(*(one[rows].tolist() for one in columns), strict=True):
            if length:
                parts.append(self.shards[shard].read_some(start, start + length))
        return np.concatenate(parts)


class SentenceBatches:
    """The batches of some lanes, each lane a whole row, from the first word to the last.

    The input of a row's first word is `<eos>`. Each row is in one batch an epoch. Steps are best
    read in order.

    Args:
        rows: all rows in the order of the epoch.
        num_lanes: B, rows a batch; the last one may have fewer.
        lanes: the lanes wanted, a slice of `range(B)`.

    Raises:
        CorpusError: there are no rows, or `num_lanes` is below 1.
    """

    carries_state = False

    def __init__(self, rows: RowOrder, num_lanes: int, lanes: range) -> None:
        check_num_lanes(num_lanes)
        if not len(rows):
            raise CorpusError(
                f"the split {rows.tokens.name} has no rows, expected some; give more text"
            )
        assert lanes.step == 1
        assert not lanes or (lanes.start >= 0 and lanes.stop <= num_lanes)
        self.rows = rows
        self.num_lanes = num_lanes
        self.lanes = lanes
        self.num_steps = -(-len(rows) // num_lanes)
        self._pool_number = -1
        self._pool: Pool

    def num_tokens(self, step: int) -> int:
        """Return the number of targets of a step over all B lanes, padding not counted.

        Raises:
            CorpusError: a shard is missing, truncated, or not what the manifest says.
        """
        pool, chosen = self._find(step)
        return int(pool.lengths[chosen].sum())

    def batch(self, step: int) -> Batch:
        """Return a step of the lanes wanted, inputs and targets [L, T]; without a row all padding.

        Raises:
            CorpusError: a shard is missing, truncated, or not what the manifest says.
            IndexError: there is no such step.
        """
        pool, chosen = self._find(step)
        # As wide on every process, as masks of dropout depend on the width.
        width = max(1, int(pool.lengths[chosen].max()))
        own = chosen[self.lanes.start : self.lanes.stop]
        lengths = np.zeros(len(self.lanes), dtype=np.int64)
        lengths[: len(own)] = pool.lengths[own]
        real = np.arange(width) < lengths[:, None]
        targets = np.full(real.shape, PADDING, dtype=np.int32)
        targets[real] = pool.words(own)
        before = np.full((len(self.lanes), 1), self.rows.tokens.eos_id, dtype=np.int32)
        inputs = np.where(real, np.hstack([before, targets[:, :-1]]), np.int32(0))
        return Batch(inputs, targets)

    def at_epoch(self, epoch: int) -> "SentenceBatches":
        """Return the same lanes of another epoch."""
        return SentenceBatches(self.rows.at_epoch(epoch), self.num_lanes, self.lanes)

    def shards(self) -> Sequence[Shard]:
        """Return all shards: every lane has rows of each."""
        return self.rows.tokens.shards if self.lanes else ()

    def _find(self, step: int) -> tuple[Pool, Positions]:
        """Return the pool of a step, and the rows of the step in it."""
        check_step(step, self.num_steps)
        number, place = divmod(step, POOL_BATCHES)
        if number != self._pool_number:
            self._pool = self._make_pool(number)
            self._pool_number = number
        return self._pool, self._pool.batches[place]

    def _make_pool(self, number: int) -> Pool:
        rows, pool_rows = self.rows, POOL_BATCHES * self.num_lanes
        start, stop = number * pool_rows, min((number + 1) * pool_rows, len(rows))
        shards: list[OpenShard] = []
        shard_of_row, starts, lengths = [], [], []
        for place, first, last in rows.places(rows.row_bounds, start, stop):
            shard = rows.shard(place)
            shard_of_row.append(np.full(last - first, len(shards)))
            starts.append(shard.starts[first:last])
            lengths.append(np.diff(shard.bounds[first : last + 1]))
            shards.append(shard.opened)
        lengths_P = np.concatenate(lengths)
        by_length = np.argsort(lengths_P, kind="stable")
        batches = [
            by_length[first : first + self.num_lanes]
            for first in range(0, len(by_length), self.num_lanes)
        ]
        order = permutation(len(batches), rows.seed, rows.epoch, number, _BATCH_ORDER)
        return Pool(
            tuple(shards),
            np.concatenate(shard_of_row),
            np.concatenate(starts),
            lengths_P,
            tuple(batches[index] for index in order),
        )
