"""Batches that do not depend on the number of processes: a text as B lanes, read in parallel.

The targets of a sequence, its N tokens, are cut into B contiguous lanes; the input of a target is
the token before it. Each step takes T targets of every lane. All of it is a pure function of N, B
and T: a process is given a range of lanes and yields these lanes' share of the global batch.

Legend: N tokens, B lanes in all, L lanes of one process, T targets a step and lane (`bptt`).
"""

from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from data_shards.batches import PADDING, Batch, check_num_lanes, check_step
from data_shards.errors import CorpusError
from data_shards.manifest import Shard
from data_shards.shards import Ids

BLOCK_TOKENS = 1 << 18
"""About so many tokens, 1 MiB, are read at once, from all lanes together."""


class Tokens(Protocol):
    """A text as one long sequence of tokens, which may have another order in another epoch."""

    @property
    def name(self) -> str:
        """The split's name, for messages."""
        ...

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Ids:
        """Return the tokens at `start` to `stop - 1`, int32; position -1 reads as `<eos>`."""
        ...

    def at_epoch(self, epoch: int) -> Self:
        """Return the sequence of another epoch."""
        ...

    def shards_between(self, start: int, stop: int) -> Sequence[Shard]:
        """Return the shards that these positions lie in, in whatever epoch."""
        ...


class LaneBatches:
    """The batches of some lanes of a sequence.

    Lane `l` covers the targets `floor(l*N/B)` to `floor((l+1)*N/B)`, so that lengths differ by one
    at most. A shorter lane is padded in its last step. Steps are best read in order: each is two
    views of a block of many steps.

    Args:
        tokens: the N tokens.
        num_lanes: B.
        bptt: targets a step and lane.
        lanes: the lanes wanted, a slice of `range(B)`; an empty one gives batches [0, T].

    Raises:
        CorpusError: there are fewer tokens than lanes, or `num_lanes` or `bptt` is below 1.
    """

    carries_state = True

    def __init__(self, tokens: Tokens, num_lanes: int, bptt: int, lanes: range) -> None:
        check_num_lanes(num_lanes)
        if bptt < 1:
            raise CorpusError(f"bptt={bptt}, expected at least 1; raise data.bptt")
        num_targets = len(tokens)
        if num_targets < num_lanes:
            raise CorpusError(
                f"the split {tokens.name} has {num_targets} tokens, fewer than "
                f"num_lanes={num_lanes}; lower data.num_lanes or give more text"
            )
        assert lanes.step == 1
        assert not lanes or (lanes.start >= 0 and lanes.stop <= num_lanes)
        self.tokens = tokens
        self.num_lanes = num_lanes
        self.bptt = bptt
        self.lanes = lanes
        self._short_length, self._num_long = divmod(num_targets, num_lanes)
        self._longest = self._short_length + (self._num_long > 0)
        self.num_steps = -(-self._longest // bptt)
        self._bounds = [
            (lane * num_targets // num_lanes, (lane + 1) * num_targets // num_lanes)
            for lane in lanes
        ]
        self._steps_per_block = max(1, BLOCK_TOKENS // (bptt * max(1, len(lanes))))
        self._block_steps = range(0)
        self._block: Ids = np.empty((len(lanes), 0), dtype=np.int32)

    def num_tokens(self, step: int) -> int:
        """Return the number of targets of a step over all B lanes, padding not counted."""
        check_step(step, self.num_steps)
        first = step * self.bptt
        of_short = min(max(self._short_length - first, 0), self.bptt)
        of_long = min(max(self._short_length + 1 - first, 0), self.bptt)
        return (self.num_lanes - self._num_long) * of_short + self._num_long * of_long

    def batch(self, step: int) -> Batch:
        """Return a step of the lanes wanted, inputs and targets [L, T]; T is less in the last step.

        Raises:
            CorpusError: a shard is missing, truncated, or not what the manifest says.
            IndexError: there is no such step.
        """
        if step not in self._block_steps:
            check_step(step, self.num_steps)
            self._read_block(step)
        first = (step - self._block_steps.start) * self.bptt
        words = self._block[:, first : first + self.bptt + 1]
        inputs, targets = words[:, :-1], words[:, 1:]
        if step == self.num_steps - 1:
            inputs = np.where(targets == PADDING, np.int32(0), inputs)
        return Batch(inputs, targets)

    def at_epoch(self, epoch: int) -> Self:
        """Return the same lanes of another epoch."""
        return type(self)(self.tokens.at_epoch(epoch), self.num_lanes, self.bptt, self.lanes)

    def shards(self) -> Sequence[Shard]:
        """Return the shards that the lanes wanted lie in, in whatever epoch."""
        if not self.lanes:
            return ()
        return self.tokens.shards_between(self._bounds[0][0] - 1, self._bounds[-1][1])

    def _read_block(self, step: int) -> None:
        """Read the words of many steps: of each lane the first input, then all targets.

        A new array each time, as batches given away are views of the one before.
        """
        steps = range(step, min(step + self._steps_per_block, self.num_steps))
        first, last = steps.start * self.bptt, min(steps.stop * self.bptt, self._longest)
        block = np.empty((len(self.lanes), 1 + last - first), dtype=np.int32)
        for words, (lane_start, lane_stop) in zip(block, self._bounds, strict=True):
            read = self.tokens.read(lane_start + first - 1, min(lane_start + last, lane_stop))
            words[: len(read)] = read
            words[len(read) :] = PADDING
        self._block_steps, self._block = steps, block
