"""Vectors of words from counts: the weights by their formula, the decomposition by numpy's."""

import numpy as np
import pytest
from scipy import sparse
from warm_start_texts import ArrayTokens, zipf_text

from allocation import SingleProcess
from allocation.warm_start.neighbours import count_neighbours
from allocation.warm_start.word_vectors import (
    CONTEXT_SMOOTHING,
    truncated_svd,
    weigh_by_information,
    word_vectors,
)


def test_weights_follow_their_formula() -> None:
    counts = np.array([[4, 0, 1], [0, 9, 1], [2, 2, 0], [0, 0, 0]], dtype=np.float32)
    weighed = sparse.csr_array(counts)
    weigh_by_information(weighed, shift=1.5)
    contexts = counts.sum(axis=0) ** CONTEXT_SMOOTHING
    contexts /= contexts.sum()
    by_chance = counts.sum(axis=1, keepdims=True) * contexts
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / by_chance) - np.log(1.5)
    expected = np.where(counts > 0, np.maximum(information, 0), 0)
    np.testing.assert_allclose(weighed.toarray(), expected, rtol=1e-5)


@pytest.mark.parametrize(("words", "contexts"), [(300, 40), (40, 300), (20, 20)])
def test_singular_values_are_those_of_the_whole_decomposition(words: int, contexts: int) -> None:
    random = np.random.default_rng(1)
    dense = (random.random((words, contexts)) * (random.random((words, contexts)) < 0.2)).astype(
        np.float32
    )
    left, singular = truncated_svd(sparse.csr_array(dense), 8, seed=0)
    assert left.shape == (words, 8)
    np.testing.assert_allclose(singular, np.linalg.svd(dense, compute_uv=False)[:8], rtol=1e-4)
    np.testing.assert_allclose(left.T @ left, np.eye(8), atol=1e-5)


def test_vectors_have_length_one_or_none() -> None:
    text = zipf_text(60, 3000, seed=4)
    text[text == 50] = 0
    counts = np.bincount(text, minlength=70)
    neighbours = count_neighbours(ArrayTokens(text), counts, 20, SingleProcess())
    assert neighbours is not None
    lengths = np.linalg.norm(word_vectors(neighbours, seed=1), axis=1)
    # The counts are overwritten by what they tell, which is nothing for frequent words by chance.
    informed = (neighbours.after.sum(axis=1) + neighbours.before.sum(axis=1)) > 0
    assert 10 < informed.sum() < 60
    assert not informed[counts == 0].any()
    assert np.isclose(lengths[informed], 1, atol=1e-5).all()
    assert (lengths[~informed] == 0).all()
