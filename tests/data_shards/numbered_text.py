"""A split whose tokens are all different: what was read tells where it stood."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_shards import Corpus, Manifest, Shard, Split, Tokenization, VocabularyFile
from data_shards.files import arrow_file
from data_shards.shards import SCHEMA

EOS_ID = 0
Rows = list[list[int]]


def numbered_rows(lengths: Sequence[Sequence[int]]) -> list[Rows]:
    """Return the rows of each shard, of these lengths; tokens count from 1 over all of them."""
    stops = accumulate((length for shard in lengths for length in shard), initial=1)
    starts = iter(stops)
    return [[list(range(start := next(starts), start + n)) for n in shard] for shard in lengths]


def numbered_corpus(folder: Path, lengths: Sequence[Sequence[int]], rows_a_batch: int) -> Corpus:
    """Write a corpus whose only split, `train`, has numbered rows.

    Args:
        folder: an empty folder.
        lengths: of the rows of each shard.
        rows_a_batch: rows of a record batch.
    """
    (folder / "train").mkdir(parents=True)
    shards = []
    for number, rows in enumerate(numbered_rows(lengths)):
        path = folder / "train" / f"{number:05d}.arrow"
        with arrow_file(path, SCHEMA) as (file, writer):
            for first in range(0, len(rows), rows_a_batch):
                column = pa.array(rows[first : first + rows_a_batch], SCHEMA[0].type)
                writer.write_batch(pa.record_batch([column], schema=SCHEMA))
        sizes = len(rows), sum(map(len, rows))
        name = path.relative_to(folder).as_posix()
        shards.append(Shard(name, *sizes, file.num_bytes, file.sha256))
    tokens, rows = sum(one.tokens for one in shards), sum(one.rows for one in shards)
    vocabulary = VocabularyFile("vocabulary.arrow", tokens + 1, EOS_ID, 1, "0" * 64)
    splits = {"train": Split(tokens, rows, 0, tuple(shards))}
    return Corpus(folder, Manifest(Tokenization(), vocabulary, splits))


def words_of(rows: Sequence[np.ndarray]) -> list[int]:
    """Return the words of some arrays, one after the other."""
    return np.concatenate(rows).tolist() if rows else []
