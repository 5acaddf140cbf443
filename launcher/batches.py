"""From the corpus to tensors on the device: this rank's lanes of every global batch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from data_shards import Batch, LaneBatches, TokenSequence, lane_slice
from launcher.processes import Processes


def training_batches(
    tokens: TokenSequence, num_lanes: int, bptt: int, processes: Processes
) -> LaneBatches:
    """Return this rank's share of the training batches.

    Raises:
        CorpusError: more processes than lanes, or fewer tokens than lanes.
    """
    lanes = lane_slice(num_lanes, processes.rank, processes.world_size)
    return LaneBatches(tokens, num_lanes, bptt, lanes)


def evaluation_batches(
    tokens: TokenSequence, num_lanes: int, bptt: int, processes: Processes
) -> LaneBatches:
    """Return this rank's share of a split; the lanes do not depend on the number of processes.

    A short split has fewer lanes, and with more processes than lanes some have none.
    """
    num_lanes = min(num_lanes, len(tokens))
    first, last = (
        edge * num_lanes // processes.world_size for edge in (processes.rank, processes.rank + 1)
    )
    return LaneBatches(tokens, num_lanes, bptt, range(first, last))


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, int32 [lanes, T], on the device."""
    return (
        torch.from_numpy(batch.inputs).to(device, non_blocking=True),
        torch.from_numpy(batch.targets).to(device, non_blocking=True),
    )


def all_batches(
    batches: LaneBatches, device: torch.device, max_tokens: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of an epoch in order; the first ones only where `max_tokens` is given.

    A rank without lanes gets none.
    """
    if not batches.lanes:
        return
    tokens = 0
    for step in range(batches.num_steps):
        if max_tokens is not None and tokens >= max_tokens:
            return
        tokens += batches.num_tokens(step)
        yield to_device(batches.batch(step), device)
