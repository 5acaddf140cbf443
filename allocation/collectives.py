"""What ranks say to each other besides numbers: agreed errors, and equal tables.

Every function here is called by all ranks of the group, and nothing is pickled.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from allocation.communicators import Communicator
from allocation.errors import AllocationError
from lightrnn.errors import LightRNNError
from lightrnn.table import WordTable

Result = TypeVar("Result")


class RemoteError(RuntimeError):
    """Another rank failed in a way that no user can mend; its own log has the traceback."""


def run_together(
    action: Callable[[], Result],
    communicator: Communicator,
    user_errors: tuple[type[Exception], ...] = (LightRNNError,),
) -> Result:
    """Run `action` on every rank; where it fails on any, every rank raises the same error.

    Args:
        action: may do different work on each rank, but communicates with none.
        communicator: all ranks.
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
    rank, world_size = communicator.rank, communicator.world_size
    failed = np.array([world_size if error is None else rank])
    communicator.all_reduce(failed, "min")
    first = int(failed[0])
    if first == world_size:
        return result  # type: ignore[return-value]
    is_user_error = isinstance(error, user_errors)
    message = f"{'u' if is_user_error else 'p'}{error}" if rank == first else ""
    message = broadcast_text(message, first, communicator)
    if message[0] == "u":
        raise LightRNNError(message[1:]) from error
    if error is not None:
        raise error
    raise RemoteError(f"rank {first} failed: {message[1:]}")


def broadcast_text(text: str, source: int, communicator: Communicator) -> str:
    """Return the text of rank `source` on every rank; what is no Unicode is escaped."""
    # An undecodable file name in a message is no reason to fail here, and keep the others waiting.
    content = np.array(list(text.encode(errors="backslashreplace")), dtype=np.uint8)
    length = np.array([len(content)])
    communicator.broadcast(length, source)
    if communicator.rank != source:
        content = np.empty(int(length[0]), dtype=np.uint8)
    communicator.broadcast(content, source)
    return content.tobytes().decode()


def broadcast_table(
    table: WordTable | None, like: WordTable, communicator: Communicator
) -> WordTable:
    """Return rank 0's table on every rank, every cell found equal on all.

    Args:
        table: the table on rank 0, ignored elsewhere.
        like: any table of the same size.
        communicator: all ranks.

    Raises:
        AllocationError: a rank holds another table than rank 0 after the exchange.
    """
    source = table if table is not None and communicator.rank == 0 else like
    rows, columns = np.array(source.row_of_word), np.array(source.column_of_word)
    for cells in (rows, columns):
        communicator.broadcast(cells)
    # Agreed before it is made a table: what arrived damaged may be none, on its own rank only.
    digest = hashlib.sha256(rows.tobytes() + columns.tobytes()).digest()
    digests = gather_bytes(digest, communicator)
    different = [rank for rank, found in enumerate(digests) if found != digests[0]]
    if different:
        raise AllocationError(
            f"ranks {different} received another table than rank 0, expected the same on all; "
            "the old table stays, check the network of their hosts"
        )
    return WordTable(rows, columns, like.num_rows, like.num_columns)


def gather_bytes(content: bytes, communicator: Communicator) -> list[bytes]:
    """Return every rank's content, in rank order, on every rank; all are of one length."""
    contents = np.zeros((communicator.world_size, len(content)), dtype=np.uint8)
    contents[communicator.rank] = list(content)
    communicator.all_reduce(contents)
    return [one.tobytes() for one in contents]


def gather_texts(text: str, communicator: Communicator) -> list[str]:
    """Return every rank's text, in rank order, on every rank."""
    content = text.encode(errors="backslashreplace")
    own_length = len(content).to_bytes(8)
    lengths = [int.from_bytes(one) for one in gather_bytes(own_length, communicator)]
    padded = gather_bytes(content.ljust(max(lengths)), communicator)
    return [one[:length].decode() for one, length in zip(padded, lengths, strict=True)]
