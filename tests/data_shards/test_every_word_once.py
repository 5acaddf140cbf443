"""All kinds of batches: every word once an epoch, the same at any number of processes."""

import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_text import EOS_ID, numbered_corpus, numbered_rows

from data_shards import (
    PADDING,
    Batches,
    Corpus,
    LaneBatches,
    RowOrder,
    SentenceBatches,
    ShuffledTokens,
    count_targets,
    lane_slice,
    lanes,
    sentences,
)

SEED = 3
Kind = Callable[[Corpus, int, int, range], Batches]


def in_order(corpus: Corpus, num_lanes: int, bptt: int, wanted: range) -> Batches:
    return LaneBatches(corpus.split("train"), num_lanes, bptt, wanted)


def shuffled(corpus: Corpus, num_lanes: int, bptt: int, wanted: range) -> Batches:
    tokens = ShuffledTokens(corpus.split("train"), SEED, max_open=len(wanted) + 1)
    return LaneBatches(tokens, num_lanes, bptt, wanted)


def sentences_in_order(corpus: Corpus, num_lanes: int, bptt: int, wanted: range) -> Batches:
    rows = RowOrder(corpus.split("train"), SEED, shuffled=False)
    return SentenceBatches(rows, num_lanes, wanted)


def shuffled_sentences(corpus: Corpus, num_lanes: int, bptt: int, wanted: range) -> Batches:
    rows = RowOrder(corpus.split("train"), SEED, shuffled=True)
    return SentenceBatches(rows, num_lanes, wanted)


SENTENCES = (sentences_in_order, shuffled_sentences)
every_kind = pytest.mark.parametrize("kind", [in_order, shuffled, *SENTENCES])


@pytest.fixture(autouse=True)
def _small_blocks_and_pools(monkeypatch):
    monkeypatch.setattr(lanes, "BLOCK_TOKENS", 40)
    monkeypatch.setattr(sentences, "POOL_BATCHES", 3)


@st.composite
def cases(draw):
    lengths = draw(
        st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=9), min_size=1, max_size=5)
    )
    num_lanes = draw(st.integers(1, min(12, sum(map(sum, lengths)))))
    world_size = draw(st.integers(1, num_lanes))
    return lengths, draw(st.integers(1, 4)), num_lanes, draw(st.integers(1, 9)), world_size


def global_batch(ranks, step):
    batches = [rank.batch(step) for rank in ranks]
    for batch in batches:
        assert batch.inputs.shape == batch.targets.shape
        assert batch.inputs.dtype == batch.targets.dtype == np.int32
    return tuple(
        np.concatenate([getattr(batch, part) for batch in batches])
        for part in ("inputs", "targets")
    )


@every_kind
@settings(max_examples=60, deadline=None)
@given(case=cases(), epoch=st.integers(0, 3), data=st.data())
def test_all_ranks_together_see_every_word_once(kind: Kind, case, epoch, data):
    lengths, rows_a_batch, num_lanes, bptt, world_size = case
    with tempfile.TemporaryDirectory() as folder:
        corpus = numbered_corpus(Path(folder), lengths, rows_a_batch)
        ranks = [
            kind(corpus, num_lanes, bptt, lane_slice(num_lanes, rank, world_size)).at_epoch(epoch)
            for rank in range(world_size)
        ]
        alone = kind(corpus, num_lanes, bptt, range(num_lanes)).at_epoch(epoch)
        num_steps = alone.num_steps
        assert {rank.num_steps for rank in ranks} == {num_steps}
        seen, read = [], [[] for _ in range(num_lanes)]
        for step in range(num_steps):
            inputs, targets = global_batch(ranks, step)
            real = targets != PADDING
            assert (inputs[~real] == 0).all()
            assert {rank.num_tokens(step) for rank in [*ranks, alone]} == {real.sum()}
            assert real.any()
            for ours, theirs in zip((inputs, targets), global_batch([alone], step), strict=True):
                assert np.array_equal(ours, theirs)
            seen += targets[real].tolist()
            for lane in range(num_lanes):
                pairs = zip(inputs[lane][real[lane]], targets[lane][real[lane]], strict=True)
                read[lane].append([(int(word), int(target)) for word, target in pairs])
        assert sorted(seen) == list(range(1, 1 + sum(map(sum, lengths))))
        (check_rows if kind in SENTENCES else check_lanes)(read, lengths, kind is in_order)

        # Gone on from any step, in any order: the same again.
        resumed = kind(corpus, num_lanes, bptt, range(num_lanes)).at_epoch(epoch)
        for step in data.draw(st.permutations(range(num_steps))):
            for ours, theirs in zip(
                global_batch([resumed], step), global_batch([alone], step), strict=True
            ):
                assert np.array_equal(ours, theirs)


def check_lanes(read, lengths, is_in_order):
    """Lanes one after the other are the whole text, in whole rows, each word after its input."""
    pairs = [pair for lane in read for step in lane for pair in step]
    targets = [target for _, target in pairs]
    assert [word for word, _ in pairs] == [EOS_ID, *targets[:-1]]
    shards = numbered_rows(lengths)
    if is_in_order:
        assert targets == [word for rows in shards for row in rows for word in row]
        return
    place_of_row = {tuple(row): n for n, rows in enumerate(shards) for row in rows}
    length_from = {row[0]: len(row) for row in place_of_row}
    visited = []
    while targets:
        row = tuple(targets[: length_from[targets[0]]])
        visited.append(place_of_row[row])
        targets = targets[len(row) :]
    # A shard is left for good when its last row is read.
    changes = [n for n, before in zip(visited, [None, *visited], strict=False) if n != before]
    assert sorted(changes) == list(range(len(lengths)))


def check_rows(read, lengths, _):
    """Every lane and step is a whole row, from `<eos>` on, or nothing."""
    rows = {tuple(row) for rows in numbered_rows(lengths) for row in rows}
    found = [step for lane in read for step in lane if step]
    assert {tuple(target for _, target in row) for row in found} == rows
    assert len(found) == len(rows)
    for row in found:
        targets = [target for _, target in row]
        assert [word for word, _ in row] == [EOS_ID, *targets[:-1]]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Return 8 shards of 30 rows."""
    lengths = [[1 + (7 * shard + 5 * row) % 11 for row in range(30)] for shard in range(8)]
    return numbered_corpus(tmp_path / "corpus", lengths, rows_a_batch=7)


def whole_epoch(batches: Batches) -> list[list[int]]:
    return [batches.batch(step).targets.tolist() for step in range(batches.num_steps)]


@every_kind
def test_epochs_differ_where_they_are_shuffled(kind: Kind, corpus: Corpus):
    batches = kind(corpus, 4, 10, range(4))
    epochs = [whole_epoch(batches.at_epoch(epoch)) for epoch in (0, 1, 2)]
    assert epochs[0] == whole_epoch(batches)
    differ = [one != other for one, other in pairwise(epochs)]
    assert differ == [kind is not in_order] * 2


def test_another_seed_is_another_order(corpus: Corpus):
    tokens = corpus.split("train")
    orders = [ShuffledTokens(tokens, seed).read(0, len(tokens)).tolist() for seed in (1, 2, -1)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(orders[0]) == sorted(orders[2])


def test_shards_change_places_and_so_do_rows_in_them(corpus: Corpus):
    tokens = corpus.split("train")
    read = ShuffledTokens(tokens, SEED).read(0, len(tokens)).tolist()
    shards = numbered_rows([shard_lengths(corpus, n) for n in range(8)])
    shard_of_word = {word: n for n, rows in enumerate(shards) for row in rows for word in row}
    visited = list(dict.fromkeys(shard_of_word[word] for word in read))
    assert sorted(visited) == list(range(8)) != visited
    first = [word for word in read if shard_of_word[word] == 0]
    assert sorted(first) == [word for row in shards[0] for word in row] != first


def shard_lengths(corpus: Corpus, number: int) -> list[int]:
    return np.diff(corpus.split("train").opened(number).row_starts()).tolist()


@every_kind
def test_only_shards_under_the_lanes_are_needed(kind: Kind, corpus: Corpus):
    """All others are gone, and an epoch is read all the same."""
    every = {shard.file for shard in corpus.manifest.splits["train"].shards}
    kept = [kind(corpus, 8, 5, lane_slice(8, rank, 4)).shards() for rank in range(4)]
    assert {shard.file for shards in kept for shard in shards} == every
    assert not kind(corpus, 8, 5, range(0)).shards()
    if kind is not in_order:
        assert [len(shards) for shards in kept] == [8] * 4
        return
    assert max(map(len, kept)) <= 4
    wanted = {shard.file for shard in kept[2]}
    for name in every - wanted:
        (corpus.path / name).unlink()
    batches = kind(Corpus(corpus.path, corpus.manifest), 8, 5, lane_slice(8, 2, 4))
    assert len(whole_epoch(batches)) == batches.num_steps


@every_kind
def test_words_are_counted_lane_by_lane(kind: Kind, corpus: Corpus):
    size = corpus.manifest.vocabulary.words
    parts = [count_targets(kind(corpus, 7, 5, lane_slice(7, n, 3)), size) for n in range(3)]
    assert sum(parts).tolist() == [0] + [1] * (size - 1)
    assert not count_targets(kind(corpus, 7, 5, range(0)), size).any()
