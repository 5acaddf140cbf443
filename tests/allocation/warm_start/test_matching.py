"""Words matched to places lose little more than in the best way."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from allocation.warm_start.matching import PRECISION, match


@pytest.mark.parametrize("num_words", [1, 7, 40, 50])
def test_little_more_is_lost_than_by_the_best_matching(num_words: int) -> None:
    random = np.random.default_rng(num_words)
    for _ in range(50):
        weights_N1 = random.zipf(1.6, size=(num_words, 1)).clip(max=1e4)
        costs_NP = (random.standard_normal((num_words, 50)) * weights_N1).astype(np.float32)
        places_N = match(costs_NP)
        assert len(set(places_N.tolist())) == num_words
        words_N, best_N = linear_sum_assignment(costs_NP)
        by_chance = float((costs_NP.mean(axis=1) - costs_NP.min(axis=1)).sum())
        lost = float(costs_NP[words_N, places_N].sum() - costs_NP[words_N, best_N].sum())
        assert lost <= PRECISION * by_chance


def test_equal_words_and_words_of_no_weight_get_places_too() -> None:
    equal_NP = np.tile(np.arange(30, dtype=np.float32), (30, 1))
    equal_NP[20:] = 0
    assert sorted(match(equal_NP).tolist()) == list(range(30))
    assert sorted(match(np.zeros((30, 30), np.float32)).tolist()) == list(range(30))
    assert match(np.ones((1, 1), np.float32)).tolist() == [0]
