"""Step 2 of a reallocation: every rank's losses added up on rank 0.

Legend: V words, R rows, C columns.
"""

from dataclasses import dataclass

import numpy as np
import torch.distributed as dist

from allocation.costs import LossArray
from allocation.statistics import WordStatistics
from lightrnn.table import WordTable

BLOCK_BYTES = 64 * 2**20
"""Largest message; two of them is all the memory that a rank needs besides the result."""


@dataclass(frozen=True, eq=False)
class Exchanged:
    """What the exchange leaves.

    Attributes:
        losses: row losses [V, R] and column losses [V, C] summed over ranks, nats; on rank 0 only.
        counts: occurrences of each word over all ranks, float64 [V]; on every rank.
        row_nll, column_nll: measured losses over all ranks, nats; on every rank.
        bytes_sent: what this rank handed to collectives.
    """

    losses: tuple[LossArray, LossArray] | None
    counts: LossArray
    row_nll: float
    column_nll: float
    bytes_sent: int


def exchange_dense(
    statistics: WordStatistics,
    table: WordTable,
    group: dist.ProcessGroup,
    block_bytes: int = BLOCK_BYTES,
) -> Exchanged:
    """Reduce the whole loss matrices to rank 0, block by block of words.

    Args:
        statistics: of this rank's lanes.
        table: gives the sizes.
        group: a group for CPU tensors.
        block_bytes: no message is larger, unless one word's losses are.
    """
    num_words, width = table.num_words, table.num_rows + table.num_columns
    is_root = dist.get_rank(group) == 0
    counts, measured = statistics.counts.cpu().clone(), statistics.measured.cpu().clone()
    for small in (counts, measured):
        dist.all_reduce(small, group=group)
    bytes_sent = counts.nbytes + measured.nbytes
    if is_root:
        row_loss_VR = np.empty((num_words, table.num_rows))
        column_loss_VC = np.empty((num_words, table.num_columns))
    words_a_block = max(1, block_bytes // (8 * width))
    for start in range(0, num_words, words_a_block):
        stop = min(start + words_a_block, num_words)
        block = statistics.losses(start, stop).cpu()
        dist.reduce(block, group=group, group_dst=0)
        bytes_sent += block.nbytes
        if is_root:
            row_loss_VR[start:stop] = block[:, : table.num_rows]
            column_loss_VC[start:stop] = block[:, table.num_rows :]
    return Exchanged(
        losses=(row_loss_VR, column_loss_VC) if is_root else None,
        counts=counts.numpy(),
        row_nll=float(measured[0]),
        column_nll=float(measured[1]),
        bytes_sent=bytes_sent,
    )
