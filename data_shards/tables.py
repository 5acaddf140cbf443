"""Parquet files, Arrow files as `datasets` and others write them, and `datasets` objects."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from data_shards.columns import Rows, column_at, path_of_column
from data_shards.spans import Part
from data_shards.words import TextOptions

ARROW_FILE_MAGIC = b"ARROW1"
"""The first bytes of Arrow's file format; its stream format has none."""


def num_row_groups(path: Path) -> int:
    """Return how many row groups a Parquet file has."""
    with pq.ParquetFile(path) as file:
        return int(file.num_row_groups)


def num_record_batches(path: Path) -> int:
    """Return how many record batches an Arrow file has; of a stream only their heads are read."""
    with pa.memory_map(str(path)) as source:
        if is_file_format(path):
            return int(pa.ipc.open_file(source).num_record_batches)
        messages = pa.ipc.MessageReader.open_stream(source)
        return sum(message.type == "record batch" for message in messages)


def is_file_format(path: Path) -> bool:
    """Whether an Arrow file is one with an index at its end, and not a stream."""
    with path.open("rb") as file:
        return file.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC


def read_parquet(part: Part, options: TextOptions, option: str, block_bytes: int) -> Iterator[Rows]:
    """Read a column of some row groups, about `block_bytes` at a time.

    Raises:
        CorpusError: there is no such column.
    """
    with pq.ParquetFile(part.path, buffer_size=1 << 20, pre_buffer=False) as file:
        column = path_of_column(file.schema_arrow, options.column, part)
        groups = range(part.start, file.num_row_groups if part.stop is None else part.stop)
        metadata = [file.metadata.row_group(group) for group in groups]
        num_bytes = sum(group.total_byte_size for group in metadata)
        num_rows = sum(group.num_rows for group in metadata)
        first = sum(file.metadata.row_group(group).num_rows for group in range(part.start))
        batches = file.iter_batches(
            batch_size=max(1, min(num_rows, block_bytes * num_rows // max(1, num_bytes))),
            row_groups=list(groups),
            columns=[".".join(column)],
            use_threads=False,
        )
        for batch in batches:
            yield Rows(column_at(batch, column), partial(part.place_of_row, first))
            first += batch.num_rows


def read_arrow(part: Part, options: TextOptions, option: str, block_bytes: int) -> Iterator[Rows]:
    """Read a column of some record batches, mapped and not copied where they are not compressed.

    Raises:
        CorpusError: there is no such column.
    """
    open_arrow = pa.ipc.open_file if is_file_format(part.path) else pa.ipc.open_stream
    with pa.memory_map(str(part.path)) as source:
        schema = open_arrow(source).schema
        column = path_of_column(schema, options.column, part)
        source.seek(0)
        only = [schema.get_field_index(column[0])]
        settings = pa.ipc.IpcReadOptions(included_fields=only, use_threads=False)
        reader = open_arrow(source, options=settings)
        first = 0
        for index, batch in enumerate(islice(record_batches(reader), part.stop)):
            if index >= part.start:
                yield Rows(column_at(batch, column), partial(part.place_of_row, first))
            first += batch.num_rows


def record_batches(
    reader: pa.RecordBatchFileReader | pa.RecordBatchStreamReader,
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of either format."""
    if isinstance(reader, pa.RecordBatchStreamReader):
        yield from reader
    else:
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))


def read_dataset(part: Part, options: TextOptions, option: str, block_bytes: int) -> Iterator[Rows]:
    """Read a column of a `datasets` object.

    Raises:
        CorpusError: there is no such column.
    """
    column = path_of_column(part.dataset.features.arrow_schema, options.column, part)
    dataset = part.dataset.select_columns(column[:1]).with_format("arrow")
    step = max(1, block_bytes * len(dataset) // max(1, part.num_bytes))
    for start in range(0, len(dataset), step):
        first = part.start + start
        for batch in dataset[start : start + step].to_batches():
            yield Rows(column_at(batch, column), partial(part.place_of_row, first))
            first += batch.num_rows
