import hashlib
import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards import EOS, UNK, Vocabulary, unigram_perplexity

COUNTS = {b"b": 5, b"a": 5, "é".encode(): 5, b"Z": 5, b"rare": 1, b"<eos>": 7, b"<unk>": 2}


def test_order_is_by_count_then_bytes():
    vocabulary = Vocabulary.from_counts(COUNTS)
    assert vocabulary.words == (EOS, "Z", "a", "b", "é", UNK, "rare")
    assert vocabulary.counts.tolist() == [7, 5, 5, 5, 5, 2, 1]
    assert (vocabulary.eos_id, vocabulary.unk_id, len(vocabulary)) == (0, 5, 7)
    assert vocabulary.encode(["é", "new", EOS]).tolist() == [4, 5, 0]


def test_cut_by_size_gives_its_occurrences_to_unk():
    vocabulary = Vocabulary.from_counts(COUNTS, vocab_size=4)
    assert vocabulary.words == (UNK, EOS, "Z", "a")
    assert vocabulary.counts.tolist() == [13, 7, 5, 5]


def test_cut_by_count():
    vocabulary = Vocabulary.from_counts(COUNTS, min_count=2)
    assert vocabulary.words == (EOS, "Z", "a", "b", "é", UNK)
    assert vocabulary.counts[vocabulary.unk_id] == 3


@given(
    st.dictionaries(st.text("abcé<", min_size=1, max_size=3).map(str.encode), st.integers(1, 5)),
    st.integers(3, 20) | st.none(),
    st.integers(1, 4),
)
def test_cut_agrees_with_the_plain_rule(counts, vocab_size, min_count):
    room = len(counts) if vocab_size is None else vocab_size - 2
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    kept = [word for word in ranked if counts[word] >= min_count][:room]
    vocabulary = Vocabulary.from_counts(counts, vocab_size, min_count)
    assert [w.encode() for w in vocabulary.words if w not in (EOS, UNK)] == kept
    assert vocabulary.counts.sum() == Counter(counts).total()
    assert vocab_size is None or len(vocabulary) <= vocab_size


def test_settings_and_words_that_cannot_be(fails):
    with fails("vocab_size=2", "at least 3", "--vocab-size"):
        Vocabulary.from_counts(COUNTS, vocab_size=2)
    with fails("min_count=0", "--min-count"):
        Vocabulary.from_counts(COUNTS, min_count=0)
    with fails("lacks <unk>"):
        Vocabulary((EOS, "a"), np.array([1, 1]))
    with fails("2 different"):
        Vocabulary((EOS, EOS, UNK), np.array([1, 1, 1]))
    with fails("shape"):
        Vocabulary((EOS, UNK), np.array([1]))
    with fails("count -1"):
        Vocabulary((EOS, UNK), np.array([1, -1]))


def test_save_and_load(tmp_path, fails):
    vocabulary = Vocabulary.from_counts(COUNTS)
    path = tmp_path / "vocabulary.arrow"
    assert vocabulary.save(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = Vocabulary.load(path)
    assert loaded.words == vocabulary.words
    assert loaded.counts.tolist() == vocabulary.counts.tolist()
    with pytest.raises(ValueError, match="read-only"):
        loaded.counts[0] = 1

    path.write_bytes(path.read_bytes()[:-9])
    with fails("vocabulary.arrow", "prepare the corpus again"):
        Vocabulary.load(path)
    with fails("none.arrow"):
        Vocabulary.load(tmp_path / "none.arrow")
    batch = pa.record_batch({"word": ["a"], "number": [1]})
    with pa.OSFile(str(tmp_path / "other"), "wb") as f, pa.ipc.new_file(f, batch.schema) as writer:
        writer.write_batch(batch)
    with fails("number: int64", "expected word: string"):
        Vocabulary.load(tmp_path / "other")


def test_unigram_perplexity(fails):
    # add-one over 3 words: probabilities 3/6, 2/6, 1/6
    expected = math.exp(-(math.log(3 / 6) + 2 * math.log(1 / 6)) / 3)
    assert unigram_perplexity([2, 1, 0], [1, 0, 2]) == pytest.approx(expected)
    with fails("0 tokens"):
        unigram_perplexity([1, 1], [0, 0])
