"""What training and evaluation read: the batches of an epoch, whatever text is behind them.

Legend: B lanes in all, L lanes of one process, T targets a step and lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from data_shards.errors import CorpusError
from data_shards.manifest import Shard
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


class Batches(Protocol):
    """Some lanes of the batches of one epoch: a pure function of the text, a seed and the epoch.

    The lanes of all processes together are the same batches, however many processes there are.
    Objects read ahead and remember where they are: each belongs to one thread.
    """

    @property
    def num_lanes(self) -> int:
        """B."""
        ...

    @property
    def lanes(self) -> range:
        """The lanes wanted."""
        ...

    @property
    def num_steps(self) -> int:
        """Number of steps of an epoch, whatever lanes are wanted."""
        ...

    @property
    def carries_state(self) -> bool:
        """Whether a lane goes on from step to step; else every step begins anew."""
        ...

    def num_tokens(self, step: int) -> int:
        """Return the number of targets of a step over all B lanes, padding not counted."""
        ...

    def batch(self, step: int) -> Batch:
        """Return a step of the lanes wanted; T may differ from step to step, not among processes.

        Raises:
            CorpusError: a shard is missing, truncated, or not what the manifest says.
            IndexError: there is no such step.
        """
        ...

    def at_epoch(self, epoch: int) -> Self:
        """Return the batches of another epoch, from 0; an object that shares nothing with this."""
        ...

    def shards(self) -> Sequence[Shard]:
        """Return the shards that the lanes wanted lie in, in whatever epoch."""
        ...


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
    check_num_lanes(num_lanes)
    if world_size > num_lanes:
        raise CorpusError(
            f"num_lanes={num_lanes} cannot be split over {world_size} processes; use at most "
            f"{num_lanes} processes or raise data.num_lanes"
        )
    return range(rank * num_lanes // world_size, (rank + 1) * num_lanes // world_size)


def check_num_lanes(num_lanes: int) -> None:
    """Raise `CorpusError` where there is no lane."""
    if num_lanes < 1:
        raise CorpusError(f"num_lanes={num_lanes}, expected at least 1; raise data.num_lanes")


def check_step(step: int, num_steps: int) -> None:
    """Raise `IndexError` where there is no such step."""
    if not 0 <= step < num_steps:
        raise IndexError(f"step {step} lies outside 0 to {num_steps - 1}")


def count_targets(batches: Batches, vocab_size: int) -> npt.NDArray[np.int64]:
    """Count how often each word is a target of the lanes wanted, int64 [V].

    Raises:
        CorpusError: a shard is missing or truncated.
    """
    counts = np.zeros(vocab_size, dtype=np.int64)
    for step in range(batches.num_steps if batches.lanes else 0):
        targets = batches.batch(step).targets
        np.add.at(counts, targets[targets != PADDING], 1)
    return counts
