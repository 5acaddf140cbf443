"""Counts merged from runs, and vocabularies cut from them, against the plain rules."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards import EOS, UNK, Vocabulary
from data_shards.counting import cut_vocabulary, given_vocabulary
from data_shards.merging import Run, merge_range, ranges_of_words, read_run, write_run
from data_shards.vocabulary import read_word_list

COUNTS = {b"b": 5, b"a": 5, "é".encode(): 5, b"Z": 5, b"rare": 1, b"<eos>": 7, b"<unk>": 2}

WORDS = st.text("abcé<", min_size=1, max_size=3).map(str.encode)
COUNTED = st.dictionaries(WORDS, st.integers(1, 5), min_size=1)


def run_of(counts: dict[bytes, int], folder: Path, name: str = "run") -> Run:
    words = sorted(counts)
    numbers = np.array([counts[word] for word in words], np.int64)
    return write_run(folder / f"{name}.arrow", pa.array(words, pa.binary()), numbers)


def cut(counts: dict[bytes, int], vocab_size: int | None = None, min_count: int = 1) -> Vocabulary:
    with tempfile.TemporaryDirectory() as folder:
        return cut_vocabulary([run_of(counts, Path(folder))], vocab_size, min_count)


def test_order_is_by_count_then_bytes() -> None:
    vocabulary = cut(COUNTS)
    assert list(vocabulary.words) == [EOS, "Z", "a", "b", "é", UNK, "rare"]
    assert vocabulary.counts.tolist() == [7, 5, 5, 5, 5, 2, 1]
    assert (vocabulary.eos_id, vocabulary.unk_id, len(vocabulary)) == (0, 5, 7)
    assert vocabulary.encode(["é", "new", EOS]).tolist() == [4, 5, 0]


def test_cut_by_size_gives_its_occurrences_to_unk() -> None:
    vocabulary = cut(COUNTS, vocab_size=4)
    assert list(vocabulary.words) == [UNK, EOS, "Z", "a"]
    assert vocabulary.counts.tolist() == [13, 7, 5, 5]


def test_cut_by_count() -> None:
    vocabulary = cut(COUNTS, min_count=2)
    assert list(vocabulary.words) == [EOS, "Z", "a", "b", "é", UNK]
    assert vocabulary.counts[vocabulary.unk_id] == 3


@given(COUNTED, st.integers(3, 20) | st.none(), st.integers(1, 4))
def test_cut_agrees_with_the_plain_rule(
    counts: dict[bytes, int], vocab_size: int | None, min_count: int
) -> None:
    room = len(counts) if vocab_size is None else vocab_size - 2
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    kept = [word for word in ranked if counts[word] >= min_count][:room]
    vocabulary = cut(counts, vocab_size, min_count)
    assert [w.encode() for w in vocabulary.words if w not in (EOS, UNK)] == kept
    assert vocabulary.counts.sum() == Counter(counts).total()
    assert vocab_size is None or len(vocabulary) <= vocab_size


@settings(deadline=None)
@given(st.lists(COUNTED, min_size=1, max_size=5), st.integers(200, 4000))
def test_runs_are_merged_whatever_ranges_the_memory_allows(
    all_counts: list[dict[bytes, int]], memory_bytes: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [run_of(counts, folder, f"run-{number}") for number, counts in enumerate(all_counts)]
        ranges = ranges_of_words(runs, memory_bytes)
        merged = [
            merge_range(runs, first, last, folder / f"merged-{number}.arrow")
            for number, (first, last) in enumerate(ranges)
        ]
        found = [
            pair for run in merged for pair in zip(*map(_as_list, read_run(run.path)), strict=True)
        ]
    expected: Counter[bytes] = Counter()
    for counts in all_counts:
        expected.update(counts)
    assert found == sorted(expected.items())


def test_the_less_memory_the_more_ranges(tmp_path: Path) -> None:
    runs = [run_of({b"%d" % n: 1 for n in range(1000)}, tmp_path, name) for name in "abc"]
    sizes = [len(ranges_of_words(runs, memory_bytes)) for memory_bytes in (10**7, 10**5, 10**4)]
    assert sizes[0] == 1
    assert 1 < sizes[1] < sizes[2]


def _as_list(array: pa.Array) -> list[object]:
    values: list[object] = array.to_pylist()
    return values


def test_given_words_keep_their_order_and_others_are_unknown(tmp_path: Path) -> None:
    words = pa.array([b"a", b"never", b"<unk>", b"b"], pa.binary())
    vocabulary = given_vocabulary([run_of(COUNTS, tmp_path)], words)
    assert list(vocabulary.words) == [EOS, "a", "never", UNK, "b"]
    assert vocabulary.counts.tolist() == [7, 5, 0, 2 + 5 + 5 + 1, 5]


def test_word_lists_are_read_from_text_and_from_vocabularies(tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text("zwei 7\n\neins 9\n")
    assert read_word_list(text).to_pylist() == [b"zwei", b"eins"]
    cut(COUNTS).save(tmp_path / "vocabulary.arrow")
    assert read_word_list(tmp_path / "vocabulary.arrow").to_pylist()[:2] == [b"<eos>", b"Z"]


def test_word_lists_that_cannot_be(tmp_path: Path, fails) -> None:  # type: ignore[no-untyped-def]
    for content, *parts in (
        (b"a\nb\na\n", "'a' twice", "--vocab"),
        (b"\n", "no words", "--vocab"),
        (b"\xff\n", "cannot be read", "--vocab"),
    ):
        path = tmp_path / "words.txt"
        path.write_bytes(content)
        with fails("words.txt", *parts):
            read_word_list(path)
    with fails("missing.txt", "--vocab"):
        read_word_list(tmp_path / "missing.txt")


def test_settings_that_cannot_be(fails) -> None:  # type: ignore[no-untyped-def]
    with fails("vocab_size=2", "at least 3", "--vocab-size"):
        cut(COUNTS, vocab_size=2)
    with fails("min_count=0", "--min-count"):
        cut(COUNTS, min_count=0)


@pytest.mark.parametrize("num_runs", [1, 3])
def test_a_range_of_no_words_is_an_empty_run(tmp_path: Path, num_runs: int) -> None:
    runs = [run_of(COUNTS, tmp_path, str(number)) for number in range(num_runs)]
    run = merge_range(runs, b"x", b"y", tmp_path / "none.arrow")
    assert (run.num_words, len(read_run(run.path)[0])) == (0, 0)
