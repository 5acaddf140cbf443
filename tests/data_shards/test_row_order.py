import dataclasses
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_text import EOS_ID, numbered_corpus

from data_shards import PADDING, RowOrder, SentenceBatches, ShuffledTokens, TokenSequence
from data_shards.row_order import OrderedShard, permutation


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    lengths = [[1 + (5 * shard + 3 * row) % 8 for row in range(12)] for shard in range(6)]
    return numbered_corpus(tmp_path_factory.mktemp("rows") / "corpus", lengths, rows_a_batch=5)


@given(st.integers(0, 300), st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4))
def test_a_permutation_has_every_number_once(length, key):
    order = permutation(length, *key)
    assert sorted(order.tolist()) == list(range(length))
    assert order.tolist() == permutation(length, *key).tolist()


def test_permutations_stay_the_same_for_good():
    """Runs of years ago are to be resumed: these numbers may never change."""
    assert permutation(8, 1, 0).tolist() == [2, 4, 7, 5, 0, 6, 3, 1]
    assert permutation(8, -1, 2, 3).tolist() == [1, 0, 6, 3, 7, 2, 4, 5]


@settings(deadline=None)
@given(data=st.data(), epoch=st.integers(0, 2))
def test_any_range_of_a_shuffled_text_reads_like_the_whole(corpus, data, epoch):
    tokens = ShuffledTokens(corpus.split("train"), 5, epoch, max_open=2)
    whole = [EOS_ID, *tokens.read(0, len(tokens)).tolist()]
    start = data.draw(st.integers(-1, len(tokens)))
    stop = data.draw(st.integers(start, len(tokens)))
    read = tokens.read(start, stop)
    assert read.dtype == np.int32
    assert read.tolist() == whole[start + 1 : stop + 1]


@pytest.mark.parametrize(("start", "stop"), [(-2, 3), (3, 2), (0, 10_000)])
def test_ranges_outside(corpus, start, stop):
    with pytest.raises(IndexError):
        ShuffledTokens(corpus.split("train"), 5).read(start, stop)


def test_orders_of_shards_no_longer_read_are_dropped(corpus, monkeypatch):
    made, make = [], OrderedShard.of

    def recorded(*arguments):
        shard = make(*arguments)
        made.append(weakref.ref(shard))
        return shard

    monkeypatch.setattr(OrderedShard, "of", recorded)
    tokens = ShuffledTokens(corpus.split("train"), 5, max_open=2)
    for position in range(len(tokens)):
        tokens.read(position, position + 1)
        assert 1 <= sum(shard() is not None for shard in made) <= 2
    assert len(made) == 6


def test_sentences_of_a_batch_are_about_as_long(corpus):
    """Without buckets nearly half of it would be padding."""
    batches = SentenceBatches(RowOrder(corpus.split("train"), 5, shuffled=True), 6, range(6))
    padding = [float((batches.batch(step).targets == PADDING).mean()) for step in range(12)]
    assert batches.num_steps == 12
    assert np.mean(padding) < 0.1
    widths = [batches.batch(step).targets.shape[1] for step in range(12)]
    assert widths != sorted(widths)


def test_rows_without_words_are_read_as_padding(tmp_path):
    """No text has any, but a table of records may."""
    corpus = numbered_corpus(tmp_path / "corpus", [[0, 3, 0], [0, 0], [2, 0]], rows_a_batch=2)
    batches = SentenceBatches(RowOrder(corpus.split("train"), 5, shuffled=True), 2, range(2))
    targets = [batches.batch(step).targets for step in range(batches.num_steps)]
    assert batches.num_steps == 4
    assert sorted(word for batch in targets for word in batch[batch != PADDING]) == [1, 2, 3, 4, 5]
    assert sorted(batches.num_tokens(step) for step in range(4)) == [0, 0, 2, 3]
    shuffled = ShuffledTokens(corpus.split("train"), 5)
    assert sorted(shuffled.read(0, 5).tolist()) == [1, 2, 3, 4, 5]


def test_what_cannot_be(corpus, tmp_path, fails):
    rows = RowOrder(corpus.split("train"), 5, shuffled=False)
    with fails("num_lanes=0", "data.num_lanes"):
        SentenceBatches(rows, 0, range(0))
    for step in (-1, 72):
        with pytest.raises(IndexError):
            SentenceBatches(rows, 1, range(1)).batch(step)
    empty = numbered_corpus(tmp_path / "empty", [], rows_a_batch=1)
    with fails("train has no rows", "more text"):
        SentenceBatches(RowOrder(empty.split("train"), 5, shuffled=True), 1, range(1))


def test_a_shard_of_another_number_of_rows_is_found(corpus, fails):
    """Numbers of steps follow from the manifest's numbers of rows."""
    first, *others = corpus.manifest.splits["train"].shards
    shards = [dataclasses.replace(first, rows=13), *others]
    tokens = TokenSequence(corpus.path, "train", shards, 1000, EOS_ID)
    with fails("00000.arrow holds 12 rows", "expected 13"):
        tokens.read(0, 1)
