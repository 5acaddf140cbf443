"""Counts of words out of many sorted runs: merged range by range, in bounded memory.

A run is a file of words in the order of their bytes, each once, with its count. Ranges of words are
merged independently of each other, so that workers may share them out, and the outcome does not
depend on where one range ends.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_shards.files import arrow_file

SCHEMA = pa.schema([("word", pa.binary()), ("count", pa.int64())])

MERGING_BYTES_A_WORD_BYTE = 8
"""What merging takes in memory, in units of the words and counts that it reads."""

SAMPLES_OF_RUN = 64


@dataclass(frozen=True)
class Run:
    """A file of words in order, with their number and their length in bytes altogether."""

    path: Path
    num_words: int
    num_bytes: int


def write_run(path: Path, words: pa.BinaryArray, counts: npt.NDArray[np.int64]) -> Run:
    """Write words, in order, and their counts."""
    with arrow_file(path, SCHEMA) as (_, writer):
        writer.write_batch(pa.record_batch([words, pa.array(counts)], schema=SCHEMA))
    return Run(path, len(words), words.nbytes)


def read_run(path: Path) -> tuple[pa.BinaryArray, pa.Int64Array]:
    """Memory-map words and counts of a run."""
    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
    return batch.column(0), batch.column(1)


def ranges_of_words(runs: Sequence[Run], memory_bytes: int) -> list[tuple[bytes, bytes | None]]:
    """Cut all words into ranges `[first, last)` of which each can be merged within the memory."""
    needed = MERGING_BYTES_A_WORD_BYTE * sum(run.num_bytes + 8 * run.num_words for run in runs)
    num_ranges = -(-needed // memory_bytes)
    if num_ranges <= 1:
        return [(b"", None)]
    # Every sample stands for as many words, so that runs of any size count by their size.
    words_a_sample = max(1, sum(run.num_words for run in runs) // (SAMPLES_OF_RUN * num_ranges))
    samples: list[bytes] = []
    for run in runs:
        words, _ = read_run(run.path)
        places = range(words_a_sample // 2, len(words), words_a_sample)
        samples += words.take(pa.array(places, pa.int64())).to_pylist()
    samples.sort()
    cuts = [samples[place * len(samples) // num_ranges] for place in range(1, num_ranges)]
    bounds: list[bytes] = list(dict.fromkeys([b"", *cuts]))
    return list(zip(bounds, [*bounds[1:], None], strict=True))


def merge_range(runs: Sequence[Run], first: bytes, last: bytes | None, path: Path) -> Run:
    """Add up the counts of the words in `[first, last)` of all runs, and write them as a run."""
    pieces = []
    for run in runs:
        words, counts = read_run(run.path)
        start = bisect_left(_AsBytes(words), first)
        stop = len(words) if last is None else bisect_left(_AsBytes(words), last)
        if start < stop:
            piece = [words.slice(start, stop - start), counts.slice(start, stop - start)]
            pieces.append(pa.record_batch(piece, schema=SCHEMA))
    table = pa.Table.from_batches(pieces, SCHEMA)
    if len(pieces) > 1:
        grouped = table.group_by("word", use_threads=False).aggregate([("count", "sum")])
        table = grouped.sort_by("word").select(["word", "count_sum"]).rename_columns(SCHEMA.names)
    merged = table.combine_chunks()
    words = pa.concat_arrays(merged["word"].chunks) if len(merged) else pa.array([], pa.binary())
    return write_run(path, words, merged["count"].to_numpy().astype(np.int64))


class _AsBytes(Sequence[bytes]):
    """Words of an Arrow array one by one, for `bisect`."""

    def __init__(self, words: pa.BinaryArray) -> None:
        self._words = words

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, place: int) -> bytes:  # type: ignore[override]
        word: bytes = self._words[place].as_py()
        return word
