"""Masks are the lanes' own: the same beside any other lanes, fair, and without hidden state.

Legend: T half-steps, B lanes, D features.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightrnn.dropout import LaneDropout, WordDropout, dropout_keys, mix

CPU = torch.device("cpu")


def lane_keys(seed: int, step: int, lanes: range, device: torch.device) -> Tensor:
    return dropout_keys(seed, step, lanes, device)[1:]


def masks(
    seed: int = 0,
    step: int = 0,
    lanes: range = range(8),
    place: int = 0,
    p: float = 0.5,
    num_steps: int = 16,
    num_features: int = 16,
) -> Tensor:
    """Return what dropout makes of ones, [T, B, D]."""
    ones = torch.ones(num_steps, len(lanes), num_features)
    return LaneDropout(p, place)(ones, lane_keys(seed, step, lanes, CPU))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    step=st.integers(0, 10**7),
    first=st.integers(0, 20),
    count=st.integers(1, 12),
    place=st.integers(0, 3),
    p=st.floats(0.05, 0.95),
)
def test_a_lanes_mask_is_the_same_beside_any_other_lanes(
    seed: int, step: int, first: int, count: int, place: int, p: float
) -> None:
    whole = masks(seed, step, range(32), place, p)
    part = masks(seed, step, range(first, first + count), place, p)
    assert torch.equal(part, whole[:, first : first + count])


def test_a_shorter_batch_has_the_beginning_of_the_masks_features() -> None:
    # The last batch of an epoch may be shorter: still a pure function of the same keys.
    assert torch.equal(masks(num_steps=4), masks(num_steps=4))


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}, {"place": 1}, {"lanes": range(8, 16)}])
def test_masks_differ_by_seed_step_place_and_lane(other: dict[str, int]) -> None:
    same = (masks() == masks(**other)).double().mean()
    # Of 2048 fair and independent bits half agree: five standard deviations on either side.
    assert abs(float(same) - 0.5) < 5 * 0.5 / math.sqrt(2048)


def test_masks_of_lanes_steps_and_features_are_unrelated() -> None:
    kept_TBD = (masks(lanes=range(64), num_steps=64, num_features=64) > 0).double() - 0.5
    for axis in range(3):
        neighbours = kept_TBD.narrow(axis, 0, 63) * kept_TBD.narrow(axis, 1, 63)
        correlation = 4 * float(neighbours.mean())
        assert abs(correlation) < 5 / math.sqrt(neighbours.numel())


def test_masks_are_no_sums_of_a_part_by_step_and_a_part_by_feature() -> None:
    """Of any four corners of a rectangle, three must not tell the fourth."""
    signs = (masks(lanes=range(64), num_steps=64, num_features=64) > 0).double() * 2 - 1
    for distance in (1, 2, 32):
        pairs = signs[:-distance] * signs[distance:]
        corners = pairs[..., :-distance] * pairs[..., distance:]
        assert abs(float(corners.mean())) < 6 / math.sqrt(corners.numel())


def test_all_keys_of_a_run_differ() -> None:
    keys = torch.cat(
        [lane_keys(seed, step, range(100), CPU) for seed in range(5) for step in range(100)]
    )
    assert len(keys.unique()) == 5 * 100 * 100


def test_mixing_is_one_to_one_and_spreads_every_bit() -> None:
    numbers = torch.arange(-50_000, 50_000)
    assert len(mix(numbers).unique()) == len(numbers)
    bits = torch.arange(64)
    changed = mix(numbers[:, None])[:1000] ^ mix(numbers[:1000, None] ^ (1 << bits))
    share = ((changed[..., None] >> bits) & 1).double().mean(0)
    assert float((share - 0.5).abs().max()) < 6 * 0.5 / math.sqrt(1000)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.2, 0.5, 0.8, 0.99])
def test_the_rate_is_right_and_the_rest_is_scaled(p: float) -> None:
    mask = masks(seed=3, lanes=range(32), p=p, num_steps=70, num_features=200)
    assert sorted(mask.unique().tolist()) == pytest.approx([0.0, 1 / (1 - p)])
    deviation = math.sqrt(p * (1 - p) / mask.numel())
    assert abs(float((mask == 0).double().mean()) - p) < 5 * deviation
    # No lane, half-step or feature is treated otherwise.
    for dims, count in (((0, 2), 70 * 200), ((1, 2), 32 * 200), ((0, 1), 70 * 32)):
        shares = (mask == 0).double().mean(dims)
        assert float((shares - p).abs().max()) < 6 * math.sqrt(p * (1 - p) / count) + 1 / count


def test_what_stays_is_scaled_with_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 4, generator=generator).requires_grad_()
    dropout, keys = LaneDropout(0.2, 0), lane_keys(0, 0, range(3), CPU)
    mask = dropout(torch.ones_like(x), keys)
    result = dropout(x, keys)
    torch.testing.assert_close(result, x * mask)
    result.sum().backward()
    torch.testing.assert_close(x.grad, mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_type_stays(dtype: torch.dtype) -> None:
    x = torch.ones(2, 3, 4, dtype=dtype)
    assert LaneDropout(0.3, 0)(x, lane_keys(0, 0, range(3), CPU)).dtype == dtype


@pytest.mark.parametrize("with_keys", [False, True])
def test_nothing_is_dropped_in_evaluation_or_at_rate_zero(with_keys: bool) -> None:
    x = torch.ones(2, 3, 4)
    keys = lane_keys(0, 0, range(3), CPU) if with_keys else None
    assert LaneDropout(0.5, 0).eval()(x, keys) is x
    assert LaneDropout(0.0, 0)(x, keys) is x


def test_torchs_generator_is_neither_read_nor_moved() -> None:
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(masks())
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)


def test_without_keys_it_is_the_usual_dropout() -> None:
    x, dropout = torch.ones(50, 4, 50), LaneDropout(0.3, 0)
    torch.manual_seed(0)
    found = dropout(x, None)
    torch.manual_seed(0)
    assert torch.equal(found, torch.nn.functional.dropout(x, 0.3))


@settings(deadline=None)
@given(first=st.integers(0, 20), count=st.integers(1, 12))
def test_a_variational_mask_is_one_for_all_half_steps(first: int, count: int) -> None:
    dropout, ones = LaneDropout(0.5, 1, variational=True), torch.ones(9, 32, 50)
    whole = dropout(ones, lane_keys(3, 7, range(32), CPU))
    assert torch.equal(whole, whole[:1].expand_as(whole))
    part = dropout(ones[:4, :count], lane_keys(3, 7, range(first, first + count), CPU))
    assert torch.equal(part, whole[:4, first : first + count])
    share = float((whole[0] == 0).double().mean())
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(whole[0].numel())
    dropped = dropout(ones, None)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))


@pytest.mark.parametrize("with_keys", [False, True])
def test_whole_words_are_dropped(with_keys: bool) -> None:
    words = torch.arange(40)[:, None].expand(40, 16)
    vectors = torch.ones(40, 16, 3)
    keys = lane_keys(0, 0, range(16), CPU) if with_keys else None
    dropped = WordDropout(0.25, 0)(vectors, words, keys)
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert torch.equal(dropped.amin(2), dropped.amax(2))
    share = float((dropped == 0).double().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / words.numel())
    assert WordDropout(0.25, 0).eval()(vectors, words, keys) is vectors
    assert WordDropout(0.0, 0)(vectors, words, keys) is vectors


def test_a_lane_drops_a_word_wherever_it_reads_it() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(5, (60, 4), generator=generator, dtype=torch.int32)
    keys = lane_keys(1, 2, range(4), CPU)
    kept = WordDropout(0.5, 0)(torch.ones(60, 4, 2), words, keys)[..., 0] > 0
    for lane in range(4):
        for word in range(5):
            assert len(kept[:, lane][words[:, lane] == word].unique()) == 1
    assert len({tuple(kept[words == word].tolist()) for word in range(5)}) > 1
    alone = WordDropout(0.5, 0)(torch.ones(60, 1, 2), words[:, 2:3], keys[2:3])[..., 0] > 0
    assert torch.equal(alone[:, 0], kept[:, 2])


def test_a_step_has_a_key_that_no_lane_has() -> None:
    keys = [dropout_keys(1, step, range(4), CPU) for step in range(3)]
    assert len(set(torch.cat(keys).tolist())) == 15
    assert dropout_keys(1, 2, range(2, 4), CPU).tolist() == keys[2][[0, 3, 4]].tolist()
