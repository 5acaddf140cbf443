"""A split as one long sequence whose documents have another order in every epoch."""

from collections.abc import Sequence

import numpy as np

from data_shards.corpus import BEFORE_FIRST, TokenSequence
from data_shards.manifest import Shard
from data_shards.row_order import RowOrder
from data_shards.shards import Ids


class ShuffledTokens:
    """The tokens of a split in the order of one epoch; it reads as `TokenSequence` does.

    Documents move within their shard, and shards among each other; see `row_order`.

    Args:
        tokens: the split.
        seed: of the order.
        epoch: the number of the epoch, from 0.
        max_open: of how many shards the order of rows is kept in memory; best a little more than
            the number of places that are read in turn.
    """

    def __init__(
        self, tokens: TokenSequence, seed: int, epoch: int = 0, max_open: int = 64
    ) -> None:
        self.name = tokens.name
        self._tokens = tokens
        self._max_open = max_open
        self._rows = RowOrder(tokens, seed, epoch, shuffled=True, max_open=max_open)

    def __len__(self) -> int:
        return len(self._tokens)

    def at_epoch(self, epoch: int) -> "ShuffledTokens":
        """Return the sequence of another epoch."""
        return ShuffledTokens(self._tokens, self._rows.seed, epoch, self._max_open)

    def shards_between(self, start: int, stop: int) -> Sequence[Shard]:
        """Return all shards: in some epoch each may lie anywhere."""
        return self._tokens.shards if start < stop else ()

    def read(self, start: int, stop: int) -> Ids:
        """Return the tokens at `start` to `stop - 1`, int32 [stop - start], not to be written to.

        Args:
            start: first position, -1 or more; position -1 reads as `<eos>`.
            stop: the position after the last, the split's length at most.

        Raises:
            CorpusError: a shard is missing, truncated, or not what the manifest says.
            IndexError: the range lies outside the sequence.
        """
        if not BEFORE_FIRST <= start <= stop <= len(self):
            raise IndexError(f"range {start}:{stop} lies outside -1:{len(self)}")
        parts = [self._tokens.read(BEFORE_FIRST, min(stop, 0))] if start == BEFORE_FIRST else []
        rows = self._rows
        for place, first, last in rows.places(rows.token_bounds, max(start, 0), stop):
            parts += rows.shard(place).pieces(first, last)
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
