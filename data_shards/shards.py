"""The form of shards: Arrow IPC files that are memory-mapped as they are.

A shard has one column, `input_ids: list<int32>`, and one row a line of text. It is uncompressed,
and its record batches are large (`BATCH_TOKENS`), so that a reader maps a batch's tokens as one
array and a slice of the corpus seldom crosses from one batch to the next.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

BATCH_TOKENS = 2**20
"""A record batch ends with the first line that reaches this many tokens."""

LONGEST_ROW_TOKENS = 2**31 - 1
"""What the 32-bit offsets of `list<int32>` can count."""

SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32()))])

Ids = npt.NDArray[np.int32]


def batches_of_rows(ids: Ids, row_ends: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Yield rows as record batches, each ended by the first row that reaches `BATCH_TOKENS`.

    Args:
        ids: tokens of all rows, int32 [N].
        row_ends: position behind each row's last token, int64 [rows]; the last one is N.
    """
    first_row = start = 0
    while first_row < len(row_ends):
        last_row = int(np.searchsorted(row_ends, start + BATCH_TOKENS))
        last_row = min(last_row, len(row_ends) - 1)
        offsets = np.append(start, row_ends[first_row : last_row + 1]) - start
        end = int(row_ends[last_row])
        rows = pa.ListArray.from_arrays(offsets.astype(np.int32), ids[start:end])
        yield pa.record_batch([rows], schema=SCHEMA)
        first_row, start = last_row + 1, end
