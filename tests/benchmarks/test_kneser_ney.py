"""Probabilities are those of the formula, and sum to one.

Legend: N words of a text, V words.
"""

from collections import Counter

import numpy as np
import pytest

from benchmarks.kneser_ney import KneserNey

NUM_WORDS, FIRST = 6, 0


def some_text(length: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    # One word never occurs.
    return ((NUM_WORDS - 1) * random.random(length) ** 2).astype(np.int64)


def by_formula(text: list[int], given: list[int], word: int, order: int) -> float:
    """P(word | given), with counts by dictionaries and discounts as the paper has them."""
    padded = [FIRST] * (order - 1) + text
    all_grams = {
        n: [tuple(padded[i - n + 1 : i + 1]) for i in range(order - 1, len(padded))]
        for n in range(1, order + 1)
    }
    probability = 1 / NUM_WORDS
    for n in range(1, order + 1):
        if n == order:
            counts = Counter(all_grams[n])
        else:
            counts = Counter(gram[1:] for gram in set(all_grams[n + 1]))
        ones = [sum(count == k for count in counts.values()) for k in range(5)]
        if ones[1] and ones[2] and ones[3]:
            rate = ones[1] / (ones[1] + 2 * ones[2])
            taken = [k - (k + 1) * rate * ones[k + 1] / ones[k] for k in (1, 2, 3)]
            taken = [0.0, *np.clip(taken, 0.05, [0.95, 1.9, 2.9])]
        else:
            taken = [0.0, 0.5, 0.5, 0.5]
        context = tuple(given[len(given) - n + 1 :])
        following = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        if not following:
            break
        total = sum(following.values())
        passed_on = sum(taken[min(count, 3)] for count in following.values()) / total
        own = following.get(word, 0)
        probability = max(own - taken[min(own, 3)], 0) / total + passed_on * probability
    return float(probability)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_are_those_of_the_formula(order: int) -> None:
    text, other = some_text(150), some_text(25, seed=1)
    found = np.exp(KneserNey(text, NUM_WORDS, order, FIRST).log_probabilities(other))
    padded = [FIRST] * (order - 1) + other.tolist()
    for place, probability in enumerate(found.tolist()):
        given = padded[place : place + order - 1]
        expected = by_formula(text.tolist(), given, int(other[place]), order)
        assert probability == pytest.approx(expected, rel=1e-9), place


@pytest.mark.parametrize("order", [1, 3, 5])
def test_probabilities_of_all_words_sum_to_one(order: int) -> None:
    model = KneserNey(some_text(400), NUM_WORDS, order, FIRST)
    for context in (some_text(6, seed=2), np.array([5, 5, 5, 5, 5, 5])):
        sums = sum(
            np.exp(model.log_probabilities(np.append(context, word))[-1])
            for word in range(NUM_WORDS)
        )
        assert sums == pytest.approx(1.0, abs=1e-9)


def test_longer_contexts_help_where_words_depend_on_them() -> None:
    text = np.tile([0, 1, 2, 0, 2, 1, 3, 3], 40)
    perplexity = [
        float(np.exp(-KneserNey(text, 4, order, 0).log_probabilities(text[:80]).mean()))
        for order in (1, 2, 3)
    ]
    assert perplexity[0] > 1.5 * perplexity[1] > 2 * perplexity[2]
    assert KneserNey(text, 4, 1, 0).num_ngrams == 4
