import hashlib
import math

import numpy as np
import pyarrow as pa
import pytest

from data_shards import EOS, UNK, Vocabulary, unigram_perplexity

WORDS, COUNTS = ("a", EOS, "é", UNK), np.array([4, 3, 2, 1])


def test_words_that_cannot_be(fails):
    with fails("lacks <unk>"):
        Vocabulary((EOS, "a"), np.array([1, 1]))
    with fails("2 different"):
        Vocabulary((EOS, EOS, UNK), np.array([1, 1, 1]))
    with fails("shape"):
        Vocabulary((EOS, UNK), np.array([1]))
    with fails("count -1"):
        Vocabulary((EOS, UNK), np.array([1, -1]))


def test_save_and_load(tmp_path, fails):
    vocabulary = Vocabulary(WORDS, COUNTS)
    path = tmp_path / "vocabulary.arrow"
    assert vocabulary.save(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = Vocabulary.load(path)
    assert list(loaded.words) == list(WORDS)
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


def test_words_are_read_by_place_and_encoded_by_name():
    vocabulary = Vocabulary(WORDS, COUNTS)
    assert (vocabulary.words[2], vocabulary.words[1:3]) == ("é", [EOS, "é"])
    assert (vocabulary.eos_id, vocabulary.unk_id) == (1, 3)
    assert vocabulary.encode(["é", "new", "a"]).tolist() == [2, 3, 0]
    assert vocabulary.encode([]).tolist() == []
