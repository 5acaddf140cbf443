import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards import PADDING, LaneBatches, TokenSequence, lane_slice, lanes


class CountingTokens(TokenSequence):
    """A sequence whose token at position i is i + 1; position -1 reads as 0."""

    def __init__(self, length):
        self.name = "train"
        self.length = length

    def __len__(self):
        return self.length

    def read(self, start, stop):
        assert -1 <= start <= stop <= self.length
        return np.arange(start + 1, stop + 1, dtype=np.int32)


@st.composite
def lane_settings(draw):
    length = draw(st.integers(1, 400))
    num_lanes = draw(st.integers(1, min(length, 40)))
    return length, num_lanes, draw(st.integers(1, 30)), draw(st.integers(1, num_lanes))


def batches_of_ranks(length, num_lanes, bptt, world_size):
    tokens = CountingTokens(length)
    return [
        LaneBatches(tokens, num_lanes, bptt, lane_slice(num_lanes, rank, world_size))
        for rank in range(world_size)
    ]


@given(lane_settings())
def test_every_target_once_and_inputs_before_targets(setting):
    ranks = batches_of_ranks(*setting)
    length, num_lanes, bptt, _ = setting
    seen = []
    rows = [[] for _ in range(num_lanes)]
    for step in range(ranks[0].num_steps):
        batches = [rank.batch(step) for rank in ranks]
        targets = np.concatenate([batch.targets for batch in batches])
        inputs = np.concatenate([batch.inputs for batch in batches])
        assert targets.shape == inputs.shape
        assert targets.dtype == inputs.dtype == np.int32
        assert targets.shape[1] == bptt or step == ranks[0].num_steps - 1
        real = targets != PADDING
        assert (inputs[real] == targets[real] - 1).all()
        assert (inputs[~real] == 0).all()
        assert {rank.num_tokens(step) for rank in ranks} == {real.sum()}
        assert real.any()
        seen += targets[real].tolist()
        for lane, row in enumerate(rows):
            row += targets[lane][real[lane]].tolist()
    assert sorted(seen) == list(range(1, length + 1))
    for lane, row in enumerate(rows):
        start, stop = lane * length // num_lanes, (lane + 1) * length // num_lanes
        assert row == list(range(start + 1, stop + 1))


@given(lane_settings())
def test_global_batches_do_not_depend_on_the_world_size(setting):
    length, num_lanes, bptt, _ = setting
    (alone,) = batches_of_ranks(length, num_lanes, bptt, 1)
    ranks = batches_of_ranks(*setting)
    assert {rank.num_steps for rank in ranks} == {alone.num_steps}
    for step in range(alone.num_steps):
        for part in ("inputs", "targets"):
            pieces = [getattr(rank.batch(step), part) for rank in ranks]
            assert np.array_equal(np.concatenate(pieces), getattr(alone.batch(step), part))


@given(st.integers(1, 5000), st.data())
def test_slices_cover_the_lanes_evenly(num_lanes, data):
    world_size = data.draw(st.integers(1, num_lanes))
    slices = [lane_slice(num_lanes, rank, world_size) for rank in range(world_size)]
    assert [lane for part in slices for lane in part] == list(range(num_lanes))
    assert max(map(len, slices)) - min(map(len, slices)) <= 1


def test_batches_stay_as_they_are_when_others_are_read(monkeypatch):
    """They are views of a block; the next block is another array."""
    monkeypatch.setattr(lanes, "BLOCK_TOKENS", 60)
    tokens = CountingTokens(1000)
    batches = LaneBatches(tokens, 4, 5, range(4))
    read = [batches.batch(step) for step in range(batches.num_steps)]
    for step, batch in enumerate(read):
        assert batch.targets.flags.writeable
        assert batch.targets[0].tolist() == list(range(5 * step + 1, 5 * step + 6))


def test_a_block_is_read_once_for_many_steps(monkeypatch):
    monkeypatch.setattr(lanes, "BLOCK_TOKENS", 60)
    reads = []
    monkeypatch.setattr(
        CountingTokens,
        "read",
        lambda self, start, stop: reads.append(start) or np.zeros(stop - start, dtype=np.int32),
    )
    batches = LaneBatches(CountingTokens(1000), 4, 5, range(4))
    for step in range(batches.num_steps):
        batches.batch(step)
    assert len(reads) == 4 * -(-batches.num_steps // 3)


def test_no_lanes_give_empty_batches():
    batches = LaneBatches(CountingTokens(100), 4, 10, range(0))
    assert batches.num_steps == 3
    assert [batches.batch(step).targets.shape for step in range(3)] == [(0, 10), (0, 10), (0, 5)]
    assert [batches.num_tokens(step) for step in range(3)] == [40, 40, 20]


def test_first_input_is_the_end_of_a_line(small_corpus):
    batches = LaneBatches(small_corpus.split("train"), 2, 5, range(2))
    first = batches.batch(0)
    assert first.inputs[0, 0] == small_corpus.vocabulary.eos_id
    words = small_corpus.vocabulary.words
    assert [words[i] for i in first.inputs[1]] == ["sat", "on", "the", "mat", "<eos>"]
    assert [words[i] for i in first.targets[1]] == ["on", "the", "mat", "<eos>", "zebra"]


def test_settings_that_cannot_be(fails):
    with fails(
        "num_lanes=48 cannot be split over 64 processes; "
        "use at most 48 processes or raise data.num_lanes"
    ):
        lane_slice(48, 3, 64)
    with fails("num_lanes=0"):
        lane_slice(0, 0, 1)
    tokens = CountingTokens(10)
    with fails("10 tokens, fewer than num_lanes=11", "lower data.num_lanes"):
        LaneBatches(tokens, 11, 5, range(11))
    with fails("num_lanes=0"):
        LaneBatches(tokens, 0, 5, range(0))
    with fails("bptt=0", "data.bptt"):
        LaneBatches(tokens, 2, 0, range(2))
    for step in (-1, 1):
        with pytest.raises(IndexError):
            LaneBatches(tokens, 2, 5, range(2)).batch(step)
