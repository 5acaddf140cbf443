"""From the corpus to tensors on the device: this rank's lanes of every global batch."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from data_shards import (
    Batch,
    Batches,
    Corpus,
    LaneBatches,
    RowOrder,
    SentenceBatches,
    ShuffledTokens,
    lane_slice,
)
from launcher.settings import Settings


class DeviceBatch(NamedTuple):
    """A step's batch where it is computed.

    Attributes:
        inputs_BT: int32, this rank's lanes.
        targets_BT: int32, this rank's lanes.
        num_tokens: number of targets of all ranks.
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    num_tokens: int


def training_batches(corpus: Corpus, settings: Settings, rank: int, world_size: int) -> Batches:
    """Return a rank's share of the training batches, those of the first epoch.

    Raises:
        CorpusError: there is no training text, or too little of it, or more processes than lanes.
    """
    data, seed = settings.data, settings.train.seed
    tokens = corpus.split("train")
    lanes = lane_slice(data.num_lanes, rank, world_size)
    shuffled = data.shuffle == "documents"
    if data.context == "sentence":
        return SentenceBatches(RowOrder(tokens, seed, shuffled=shuffled), data.num_lanes, lanes)
    if shuffled:
        # A lane reads one shard at a time.
        in_any_order = ShuffledTokens(tokens, seed, max_open=len(lanes) + 1)
        return LaneBatches(in_any_order, data.num_lanes, data.bptt, lanes)
    return LaneBatches(tokens, data.num_lanes, data.bptt, lanes)


def evaluation_batches(
    corpus: Corpus, split: str, settings: Settings, rank: int, world_size: int
) -> Batches:
    """Return a rank's share of a split, in the corpus's order, whatever `data.shuffle` is.

    The lanes do not depend on the number of processes. A short split has fewer lanes, and with more
    processes than lanes some have none.

    Raises:
        CorpusError: there is no such split.
    """
    data = settings.data
    tokens = corpus.split(split)
    num_lanes = min(data.eval_lanes, len(tokens))
    lanes = range(rank * num_lanes // world_size, (rank + 1) * num_lanes // world_size)
    if data.context == "sentence":
        rows = RowOrder(tokens, settings.train.seed, shuffled=False)
        return SentenceBatches(rows, num_lanes, lanes)
    return LaneBatches(tokens, num_lanes, data.bptt, lanes)


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, int32 [lanes, T], on the device or on their way there."""
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    if device.type != "cuda":
        return inputs.to(device), targets.to(device)
    # Only from pinned memory does a copy go on by itself; it is in order with what the device does.
    # A thread's own device is at first another one.
    with torch.cuda.device(device):
        return (
            inputs.pin_memory().to(device, non_blocking=True),
            targets.pin_memory().to(device, non_blocking=True),
        )


def training_steps(batches: Batches, steps: range, device: torch.device) -> Iterator[DeviceBatch]:
    """Yield the batches of some steps of a run, one epoch after the other.

    Args:
        batches: of any epoch; what is read is read by objects of this function's own.
        steps: counted from the beginning of the first epoch.
        device: where the batches go.

    Raises:
        CorpusError: a shard is missing, truncated, or not what the manifest says.
    """
    for step in steps:
        epoch, step_in_epoch = divmod(step, batches.num_steps)
        if step == steps.start or step_in_epoch == 0:
            batches = batches.at_epoch(epoch)
        num_tokens = batches.num_tokens(step_in_epoch)
        yield DeviceBatch(*to_device(batches.batch(step_in_epoch), device), num_tokens)


def lane_parts(num_lanes: int, num_parts: int) -> list[slice]:
    """Cut a rank's lanes into `num_parts` parts of nearly equal size, none of them empty."""
    assert 1 <= num_parts <= num_lanes
    ends = [part * num_lanes // num_parts for part in range(num_parts + 1)]
    return [slice(start, end) for start, end in pairwise(ends)]


def all_batches(
    batches: Batches, device: torch.device, max_tokens: int | None = None, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of an epoch in order; the first ones only where `max_tokens` is given.

    A rank without lanes gets none.

    Args:
        batches: of this rank.
        device: where they go.
        max_tokens: about how many targets of all ranks they have, those left out included.
        first: so many batches are left out at the beginning.
    """
    if not batches.lanes:
        return
    tokens = 0
    for step in range(batches.num_steps):
        if max_tokens is not None and tokens >= max_tokens:
            return
        tokens += batches.num_tokens(step)
        if step >= first:
            yield to_device(batches.batch(step), device)
