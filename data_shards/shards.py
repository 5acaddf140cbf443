"""Writing shards: Arrow IPC files that are memory-mapped as they are.

A shard has one column, `input_ids: list<int32>`, and one row a line of text. It is uncompressed,
and its record batches are large (`BATCH_TOKENS`), so that a reader maps a batch's tokens as one
array and a slice of the corpus seldom crosses from one batch to the next.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_shards.errors import CorpusError
from data_shards.files import arrow_file, sync_folder
from data_shards.manifest import Shard

BATCH_TOKENS = 2**20
"""A record batch ends with the first line that reaches this many tokens."""

LONGEST_ROW_TOKENS = 2**31 - 1
"""What the 32-bit offsets of `list<int32>` can count."""

SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32()))])

Ids = npt.NDArray[np.int32]
Encoded = tuple[Ids, npt.NDArray[np.int64]]
"""Token ids, and the positions behind the last token of each row that ends among them."""


def write_shards(
    encoded: Iterable[Encoded], folder: Path, root: Path, shard_tokens: int
) -> Iterator[Shard]:
    """Write a stream of tokens as `folder/00000.arrow`, ... and yield each shard when it is whole.

    A shard ends with the first row that reaches `shard_tokens`; rows are never cut. Where the
    stream is cut into pieces has no influence on the files.

    Args:
        encoded: the tokens, in pieces of any size; a row may go on in the next piece.
        folder: an existing, empty folder.
        root: the corpus folder that the shards' paths are relative to.
        shard_tokens: wanted number of tokens a shard.
    """
    rows = PendingRows(encoded)
    index = 0
    while rows.more():
        path = folder / f"{index:05d}.arrow"
        num_rows = num_tokens = 0
        with arrow_file(path, SCHEMA) as (file, writer):
            while num_tokens < shard_tokens and rows.more():
                batch = rows.take(min(BATCH_TOKENS, shard_tokens - num_tokens))
                writer.write_batch(batch)
                num_rows += batch.num_rows
                num_tokens += len(batch.column(0).values)
        yield Shard(
            path.relative_to(root).as_posix(), num_rows, num_tokens, file.num_bytes, file.sha256
        )
        index += 1
    sync_folder(folder)


class PendingRows:
    """Turns a stream of tokens into record batches of whole rows."""

    def __init__(self, encoded: Iterable[Encoded]) -> None:
        self._encoded = iter(encoded)
        self._ids: Ids = np.empty(0, dtype=np.int32)
        self._row_ends: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def more(self) -> bool:
        """Whether a row is left."""
        while not len(self._ids):
            piece = next(self._encoded, None)
            if piece is None:
                return False
            self._ids, self._row_ends = piece
        return True

    def take(self, wanted_tokens: int) -> pa.RecordBatch:
        """Take rows up to the first that reaches `wanted_tokens`, or all that are left."""
        ids: list[Ids] = []
        row_ends: list[npt.NDArray[np.int64]] = []
        num_tokens = 0
        while self.more():
            last = int(np.searchsorted(self._row_ends, wanted_tokens - num_tokens))
            complete = last < len(self._row_ends)
            end = int(self._row_ends[last]) if complete else len(self._ids)
            ids.append(self._ids[:end])
            row_ends.append(self._row_ends[: last + 1] + num_tokens)
            num_tokens += end
            self._ids, self._row_ends = self._ids[end:], self._row_ends[last + 1 :] - end
            if complete:
                break
            if num_tokens > LONGEST_ROW_TOKENS:
                raise CorpusError(
                    f"a line has more than {LONGEST_ROW_TOKENS} tokens, more than a row can hold; "
                    "break the text into lines"
                )
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), *row_ends]).astype(np.int32)
        rows = pa.ListArray.from_arrays(offsets, np.concatenate(ids))
        return pa.record_batch([rows], schema=SCHEMA)
