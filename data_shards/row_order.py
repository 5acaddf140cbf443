"""The rows of a split in the order of an epoch: shards among each other, rows within their shard.

A row is a document: a line of plain text, or a record. Documents do not leave their shard, so that
an epoch's order takes memory for the shards being read alone, and reads each shard in one go; texts
whose neighbouring shards are alike, as those of one source, stay near each other by a shard's size.

The order is a pure function of (seed, epoch, number of the shard, number of the row) and of the
manifest's numbers of rows.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from data_shards.corpus import OpenShard, TokenSequence
from data_shards.shards import Ids

Positions = npt.NDArray[np.int64]


def permutation(length: int, *key: int) -> Positions:
    """Return a permutation of `range(length)`, the same for the same key in any version of numpy.

    Args:
        length: how many numbers.
        key: whole numbers.
    """
    # numpy keeps the numbers of a bit generator for good, but not what its distributions make of
    # them; a run is to be resumed after an upgrade too.
    numbers = np.random.PCG64([part % 2**64 for part in key]).random_raw(length)
    return np.argsort(numbers, kind="stable")


@dataclass(frozen=True, eq=False)
class OrderedShard:
    """An open shard, its rows in some order.

    Attributes:
        opened: the shard.
        starts: position in the shard of each row's first token, int64 [rows].
        bounds: position of the same token when rows are read in this order, and the shard's length,
            int64 [rows + 1].
    """

    opened: OpenShard
    starts: Positions
    bounds: Positions

    @classmethod
    def of(cls, opened: OpenShard, order: Positions | None) -> "OrderedShard":
        """Put rows into an order; None leaves them as they are."""
        row_starts = opened.row_starts()
        if order is None:
            return cls(opened, row_starts[:-1], row_starts)
        lengths = np.diff(row_starts)[order]
        return cls(opened, row_starts[order], np.concatenate([[0], np.cumsum(lengths)]))

    def pieces(self, start: int, stop: int) -> Iterator[Ids]:
        """Yield the tokens between two positions of this order, row by row."""
        first = int(np.searchsorted(self.bounds, start, side="right")) - 1
        last = int(np.searchsorted(self.bounds, stop, side="left"))
        starts, bounds = self.starts[first:last], self.bounds[first : last + 1]
        skipped = np.maximum(start - bounds[:-1], 0)
        ends = starts + np.minimum(bounds[1:], stop) - bounds[:-1]
        read = self.opened.read_some
        for row_start, row_end in zip((starts + skipped).tolist(), ends.tolist(), strict=True):
            if row_start < row_end:
                yield read(row_start, row_end)


class RowOrder:
    """All rows of a split in the order of one epoch.

    Args:
        tokens: the split.
        seed: of the order.
        epoch: the number of the epoch, from 0.
        shuffled: whether shards and their rows are shuffled; else they are as in the corpus.
        max_open: of how many shards the order of rows is kept in memory.

    Attributes:
        token_bounds: position of each shard's first token in this order, and the split's length.
        row_bounds: the same in rows.
    """

    def __init__(
        self,
        tokens: TokenSequence,
        seed: int,
        epoch: int = 0,
        *,
        shuffled: bool,
        max_open: int = 2,
    ) -> None:
        self.tokens = tokens
        self.seed = seed
        self.epoch = epoch
        self.shuffled = shuffled
        self._max_open = max_open
        num_shards = len(tokens.shards)
        self._order = (
            permutation(num_shards, seed, epoch).tolist() if shuffled else list(range(num_shards))
        )
        in_order = [tokens.shards[index] for index in self._order]
        self.token_bounds = [0, *accumulate(shard.tokens for shard in in_order)]
        self.row_bounds = [0, *accumulate(shard.rows for shard in in_order)]
        self._shard = lru_cache(max_open)(self._open)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.row_bounds[-1]

    def at_epoch(self, epoch: int) -> "RowOrder":
        """Return the order of another epoch."""
        return RowOrder(
            self.tokens, self.seed, epoch, shuffled=self.shuffled, max_open=self._max_open
        )

    def shard(self, place: int) -> OrderedShard:
        """Return the shard at a place of this order, opened now if it was not before.

        Raises:
            CorpusError: it is missing, truncated, or not what the manifest says.
        """
        return self._shard(place)

    def places(self, bounds: list[int], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range at the shards' bounds.

        Args:
            bounds: `token_bounds` or `row_bounds`.
            start: first position.
            stop: the position after the last.

        Yields:
            Place of the shard in this order, and the part of the range counted from its beginning.
        """
        while start < stop:
            place = bisect_right(bounds, start) - 1
            end = min(stop, bounds[place + 1])
            yield place, start - bounds[place], end - bounds[place]
            start = end

    def _open(self, place: int) -> OrderedShard:
        index = self._order[place]
        num_rows = self.tokens.shards[index].rows
        order = permutation(num_rows, self.seed, self.epoch, index) if self.shuffled else None
        return OrderedShard.of(self.tokens.opened(index), order)
