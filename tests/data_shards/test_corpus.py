import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_shards import Corpus
from data_shards.corpus import load_vocabulary
from data_shards.files import arrow_file
from data_shards.shards import SCHEMA


def shard_of(corpus, index=1):
    shard = corpus.manifest.splits["train"].shards[index]
    return shard, corpus.path / shard.file


def replace_shard(path, rows):
    """Write other rows in the place of a shard, and return the new checksum and size."""
    path.unlink()
    with arrow_file(path, SCHEMA) as (file, writer):
        writer.write_batch(pa.record_batch([pa.array(rows, SCHEMA[0].type)], schema=SCHEMA))
    return {"sha256": file.sha256, "bytes": file.num_bytes}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_reads_like_the_whole(small_corpus, data):
    tokens = small_corpus.split("train")
    whole = np.concatenate([[small_corpus.vocabulary.eos_id], tokens.read(0, len(tokens))])
    start = data.draw(st.integers(-1, len(tokens)))
    stop = data.draw(st.integers(start, len(tokens)))
    read = tokens.read(start, stop)
    assert read.dtype == np.int32
    assert read.tolist() == whole[start + 1 : stop + 1].tolist()


@pytest.mark.parametrize(("start", "stop"), [(-2, 3), (3, 2), (0, 17)])
def test_range_outside(small_corpus, start, stop):
    with pytest.raises(IndexError):
        small_corpus.split("train").read(start, stop)


def test_only_shards_touched_are_opened(small_corpus, fails):
    for index in (0, 2):
        shard_of(small_corpus, index)[1].unlink()
    tokens = Corpus.open(small_corpus.path).split("train")
    assert len(tokens.read(5, 12)) == 7
    with fails("00002.arrow", "cannot be found"):
        tokens.read(5, 13)


def test_splits_and_folders_there_are_not(small_corpus, tmp_path, fails):
    with fails("no split 'test'", "train, valid"):
        small_corpus.split("test")
    with fails("is not a folder", "data.corpus"):
        Corpus.open(tmp_path / "none")
    with fails("has no manifest.json", "data.corpus"):
        Corpus.open(tmp_path)


def test_verify_accepts_what_was_prepared(small_corpus):
    messages = []
    small_corpus.verify(on_progress=messages.append)
    assert len(messages) == 4


def test_one_changed_bit_is_found(small_corpus, fails):
    shard, path = shard_of(small_corpus)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with fails("00001.arrow", "SHA-256", "was changed"):
        small_corpus.verify()
    with fails("00001.arrow"):
        small_corpus.verify_shards([shard])
    small_corpus.verify_shards(small_corpus.manifest.splits["valid"].shards)


def test_truncated_and_missing_shards(small_corpus, fails):
    shard, path = shard_of(small_corpus)
    path.write_bytes(path.read_bytes()[:-8])
    for use in (small_corpus.verify, small_corpus.split("train").count_ids):
        with fails("00001.arrow", f"{shard.bytes - 8} bytes, expected {shard.bytes}"):
            use()
    path.unlink()
    with fails("00001.arrow", "cannot be found"):
        small_corpus.split("train").read(0, 16)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([[0, 1, 2, 3, 4, 5, 99]], "word id 99, expected 0 to 9"),
        ([[0, 1, 2, 3, 4, 5, -1]], "word id -1"),
        ([[0, 1, 2, 3, 4, 5]], "6 tokens"),
        ([[0, 1, 2], [3, 4, 5, 6]], "2 rows"),
    ],
)
def test_wrong_content_with_the_right_checksum_is_found(small_corpus, fails, rows, part):
    shard, path = shard_of(small_corpus)
    shard = dataclasses.replace(shard, **replace_shard(path, rows))
    with fails("00001.arrow", part):
        small_corpus.verify_shards([shard])


def test_shard_that_is_no_shard(small_corpus, fails):
    shard, path = shard_of(small_corpus)
    path.write_bytes(b"x" * shard.bytes)
    with fails("00001.arrow", "cannot be read"):
        small_corpus.split("train").read(0, 16)
    table = small_corpus.path / "vocabulary.arrow"
    path.write_bytes(table.read_bytes())
    sequence = small_corpus.split("train")
    sequence._shards = tuple(
        dataclasses.replace(shard, bytes=(small_corpus.path / shard.file).stat().st_size)
        for shard in sequence._shards
    )
    with fails("word: string", "expected input_ids"):
        sequence.read(0, 16)


def test_other_vocabulary_is_found(small_corpus, fails):
    path = small_corpus.path / "vocabulary.arrow"
    expected = small_corpus.manifest.vocabulary
    content = path.read_bytes()
    at = content.index(b"zebra")
    path.write_bytes(content[:at] + b"horse" + content[at + 5 :])
    for use in (small_corpus.verify, lambda: small_corpus.vocabulary):
        with fails("vocabulary.arrow", "SHA-256", "was changed"):
            use()
    path.write_bytes(content)
    with fails("has 10 words", "expected 11"):
        load_vocabulary(small_corpus.path, dataclasses.replace(expected, words=11))
    path.unlink()
    with fails("vocabulary.arrow", "cannot be read"):
        small_corpus.verify()


def test_opening_reads_the_manifest_alone(small_corpus):
    shards = [shard for split in small_corpus.manifest.splits.values() for shard in split.shards]
    for shard in shards:
        (small_corpus.path / shard.file).unlink()
    (small_corpus.path / "vocabulary.arrow").unlink()
    opened = Corpus.open(small_corpus.path)
    assert opened.fingerprint == small_corpus.fingerprint
    assert len(opened.split("train")) == 16
