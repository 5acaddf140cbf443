"""Batches that do not depend on the number of processes.

The targets of a sequence, its N tokens, are cut into B contiguous lanes; the input of a target is
the token before it. Each step takes T targets of every lane. All of it is a pure function of N, B
and T: a process is given a range of lanes and yields these lanes' share of the global batch.

Legend: N tokens, B lanes in all, L lanes of one process, T targets a step and lane (`bptt`).
"""

from dataclasses import dataclass

import numpy as np

from data_shards.corpus import TokenSequence
from data_shards.errors import CorpusError
from data_shards.shards import Ids

PADDING = -1
"""The target where a lane has ended; the input is 0 there."""


@dataclass(frozen=True, eq=False)
class Batch:
    """One step of some lanes.

    Attributes:
        inputs: word before each target, int32 [L, T].
        targets: word to predict, int32 [L, T]; `PADDING` where the lane has ended.
    """

    inputs: Ids
    targets: Ids


def lane_slice(num_lanes: int, rank: int, world_size: int) -> range:
    """Return the lanes that a process owns; those of all processes are all lanes in order.

    Args:
        num_lanes: B.
        rank: number of the process, from 0.
        world_size: number of processes.

    Raises:
        CorpusError: there are more processes than lanes.
    """
    assert 0 <= rank < world_size
    if num_lanes < 1:
        raise CorpusError(f"num_lanes={num_lanes}, expected at least 1; raise data.num_lanes")
    if world_size > num_lanes:
        raise CorpusError(
            f"num_lanes={num_lanes} cannot be split over {world_size} processes; use at most "
            f"{num_lanes} processes or raise data.num_lanes"
        )
    return range(rank * num_lanes // world_size, (rank + 1) * num_lanes // world_size)


class LaneBatches:
    """The batches of some lanes of a sequence.

    Lane `l` covers the targets `floor(l*N/B)` to `floor((l+1)*N/B)`, so that lengths differ by one
    at most. A shorter lane is padded in its last step.

    Args:
        tokens: the N tokens.
        num_lanes: B.
        bptt: targets a step and lane.
        lanes: the lanes wanted, a slice of `range(B)`; an empty one gives batches [0, T].

    Raises:
        CorpusError: there are fewer tokens than lanes, or `num_lanes` or `bptt` is below 1.
    """

    def __init__(self, tokens: TokenSequence, num_lanes: int, bptt: int, lanes: range) -> None:
        if num_lanes < 1:
            raise CorpusError(f"num_lanes={num_lanes}, expected at least 1; raise data.num_lanes")
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
        self._bounds = [
            (lane * num_targets // num_lanes, (lane + 1) * num_targets // num_lanes)
            for lane in lanes
        ]

    @property
    def num_steps(self) -> int:
        """Number of steps until every lane of the sequence has ended, whatever lanes are wanted."""
        return -(-self._longest // self.bptt)

    def num_tokens(self, step: int) -> int:
        """Return the number of targets of a step over all B lanes, padding not counted."""
        self._check_step(step)
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
        self._check_step(step)
        first = step * self.bptt
        shape = (len(self.lanes), min(self.bptt, self._longest - first))
        inputs = np.zeros(shape, dtype=np.int32)
        targets = np.full(shape, PADDING, dtype=np.int32)
        for place, (lane_start, lane_stop) in enumerate(self._bounds):
            start = lane_start + first
            stop = min(start + self.bptt, lane_stop)
            if start < stop:
                words = self.tokens.read(start - 1, stop)
                inputs[place, : stop - start] = words[:-1]
                targets[place, : stop - start] = words[1:]
        return Batch(inputs, targets)

    @property
    def _longest(self) -> int:
        return self._short_length + (self._num_long > 0)

    def _check_step(self, step: int) -> None:
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} lies outside 0 to {self.num_steps - 1}")
