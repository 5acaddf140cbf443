"""Shortened numbers add up exactly, and are off by no more than is promised.

Legend: N vectors, M other vectors, F features.
"""

from fractions import Fraction

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allocation.fixed_point import NATS_STEP, STATE_STEP, shorten, to_multiples

FloatArray = npt.NDArray[np.float64]


def vectors(scale: float) -> st.SearchStrategy[FloatArray]:
    """Return a few vectors with components of all magnitudes below a scale."""
    numbers = st.floats(-1, 1, allow_subnormal=False).map(lambda number: number * scale)
    return hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.just(7)), elements=numbers)


def product(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Fraction:
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return sum((Fraction(x) * Fraction(y) for x, y in pairs), Fraction(0))


@given(vectors(1e7), vectors(5.0))
def test_products_are_exact(words: FloatArray, lines: FloatArray) -> None:
    short_words, short_lines = shorten(words), shorten(lines)
    products = short_words.astype(np.float64) @ short_lines.T.astype(np.float64)
    for i, word in enumerate(short_words):
        for j, line in enumerate(short_lines):
            assert Fraction(float(products[i, j])) == product(word, line)


@pytest.mark.parametrize("num_features", [1, 2, 200, 512, 513, 2048])
def test_products_are_exact_at_the_largest(num_features: int) -> None:
    # All components as large as they can be, and odd multiples of the step: no bit to spare.
    vector = np.full((1, num_features), 1 - 2.0**-53)
    vector[0, -1] = 1 - 2.0**-20 - 2.0**-21
    short = shorten(vector).astype(np.float64)
    assert Fraction(float((short @ short.T)[0, 0])) == product(short[0], short[0])


@given(vectors(1e7), vectors(5.0))
def test_products_are_near_the_true_ones(words: FloatArray, lines: FloatArray) -> None:
    found = shorten(words).astype(np.float64) @ shorten(lines).astype(np.float64).T
    sizes, sums = ([f(np.abs(v), axis=1) for v in (words, lines)] for f in (np.max, np.sum))
    bound = 2.0**-22 * (np.outer(sizes[0], sums[1]) + np.outer(sums[0], sizes[1]))
    assert (np.abs(found - words @ lines.T) <= 1.01 * bound + 1e-15).all()


def test_no_block_and_no_order_changes_a_bit() -> None:
    random = np.random.default_rng(0)
    words, lines = random.normal(size=(300, 200)), random.normal(size=(41, 200))
    words *= random.integers(1, 10**6, size=(300, 1))
    for shortened in (True, False):
        x, y = (shorten(v).astype(np.float64) if shortened else v for v in (words, lines))
        whole = x @ y.T
        blocks = np.concatenate([x[start : start + 7] @ y.T for start in range(0, 300, 7)])
        order = random.permutation(200)
        equal = (blocks == whole).all() and (x[:, order] @ y[:, order].T == whole).all()
        # Plain float64 is not: the test can fail.
        assert equal == shortened


@given(hnp.arrays(np.float64, (2, 5), elements=st.floats(-1e30, 1e30)))
def test_a_shortened_vector_stays_as_it_is(numbers: FloatArray) -> None:
    short = shorten(numbers)
    assert short.dtype == np.float32
    np.testing.assert_array_equal(shorten(short), short)
    largest = np.abs(numbers).max(axis=1, keepdims=True)
    assert (np.abs(short - numbers) <= np.maximum(2.0**-22 * largest, 2.0**-80)).all()


def test_what_is_not_finite_stays_so() -> None:
    short = shorten(np.array([[np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0], [1.0, 2.0]]))
    assert np.isfinite(short).all(axis=1).tolist() == [False, False, True, True]
    assert short[2:].tolist() == [[0.0, 0.0], [1.0, 2.0]]


@pytest.mark.parametrize("step", [STATE_STEP, NATS_STEP])
def test_multiples_are_near_and_exact_up_to_their_limit(step: float) -> None:
    values = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    multiples = to_multiples(values, step)
    assert multiples.dtype == torch.float64
    assert float((multiples - values.double()).abs().max()) <= step / 2
    assert bool((multiples / step == (multiples / step).round()).all())
    # The last whole sum: one step less is another number, and adding it back is exact.
    limit = step * 2.0**53
    assert (limit - step) + step == limit
    assert limit - step != limit


def test_the_limits_suffice_for_a_billion_words() -> None:
    # The most frequent word of English text is every twentieth or so; 8 nats a word are poor.
    assert STATE_STEP * 2.0**53 >= 1e9 / 20
    assert NATS_STEP * 2.0**53 >= 1e9 * 8
