"""What ranks say to each other besides numbers: agreed errors, and equal tables.

Every function here is called by all ranks of the group, and nothing is pickled.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from allocation.errors import AllocationError
from lightrnn.errors import LightRNNError
from lightrnn.table import WordTable

Result = TypeVar("Result")


class RemoteError(RuntimeError):
    """Another rank failed in a way that no user can mend; its own log has the traceback."""


def run_together(
    action: Callable[[], Result],
    group: dist.ProcessGroup,
    user_errors: tuple[type[Exception], ...] = (LightRNNError,),
) -> Result:
    """Run `action` on every rank; where it fails on any, every rank raises the same error.

    Args:
        action: may do different work on each rank, but communicates with none.
        group: a group for CPU tensors.
        user_errors: errors in a user's input; all others are failures of the program.

    Returns:
        What `action` returned on this rank.

    Raises:
        LightRNNError: the message of the lowest rank that failed by one of `user_errors`.
        RemoteError: another rank failed by anything else; that rank raises its own error.
    """
    result, error = None, None
    try:
        result = action()
    except Exception as failure:
        error = failure
    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    failed = torch.tensor(world_size if error is None else rank)
    dist.all_reduce(failed, dist.ReduceOp.MIN, group)
    first = int(failed)
    if first == world_size:
        return result  # type: ignore[return-value]
    is_user_error = isinstance(error, user_errors)
    message = f"{'u' if is_user_error else 'p'}{error}" if rank == first else ""
    message = broadcast_text(message, first, group)
    if message[0] == "u":
        raise LightRNNError(message[1:]) from error
    if error is not None:
        raise error
    raise RemoteError(f"rank {first} failed: {message[1:]}")


def broadcast_text(text: str, source: int, group: dist.ProcessGroup) -> str:
    """Return the text of group rank `source` on every rank; what is no Unicode is escaped."""
    # An undecodable file name in a message is no reason to fail here, and keep the others waiting.
    encoded = text.encode(errors="backslashreplace")
    content = torch.tensor(list(encoded), dtype=torch.uint8)
    length = torch.tensor(len(content))
    dist.broadcast(length, group=group, group_src=source)
    if dist.get_rank(group) != source:
        content = torch.empty(int(length), dtype=torch.uint8)
    if len(content):
        dist.broadcast(content, group=group, group_src=source)
    return bytes(content.tolist()).decode()


def broadcast_table(
    table: WordTable | None, like: WordTable, group: dist.ProcessGroup
) -> WordTable:
    """Return rank 0's table on every rank, every cell found equal on all.

    Args:
        table: the table on rank 0, ignored elsewhere.
        like: any table of the same size.
        group: a group for CPU tensors.

    Raises:
        AllocationError: a rank holds another table than rank 0 after the exchange.
    """
    source = table if table is not None and dist.get_rank(group) == 0 else like
    rows, columns = (
        torch.tensor(cells, dtype=torch.int32)
        for cells in (source.row_of_word, source.column_of_word)
    )
    for cells in (rows, columns):
        dist.broadcast(cells, group=group, group_src=0)
    # Agreed before it is made a table: what arrived damaged may be none, on its own rank only.
    digest = hashlib.sha256(rows.numpy().tobytes() + columns.numpy().tobytes()).digest()
    digests = gather_bytes(digest, group)
    different = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if different:
        raise AllocationError(
            f"ranks {different} received another table than rank 0, expected the same on all; "
            "the old table stays, check the network of their hosts"
        )
    return WordTable(rows.numpy(), columns.numpy(), like.num_rows, like.num_columns)


def gather_bytes(content: bytes, group: dist.ProcessGroup) -> list[bytes]:
    """Return every rank's content, in rank order; all are of one length."""
    mine = torch.tensor(list(content), dtype=torch.uint8)
    all_of_them: list[Tensor] = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(all_of_them, mine, group)
    return [bytes(one.tolist()) for one in all_of_them]
