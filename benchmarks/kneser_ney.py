"""Interpolated Kneser-Ney models of n-grams of word ids, in memory (Chen and Goodman, 1999).

A text is one stream: contexts reach over the ends of lines, as a recurrent state does. Orders are
discounted by three amounts, for n-grams seen once, twice and more often.

Legend: N words of a text, G different n-grams of an order.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

UNSEEN = -1
"""Number of an n-gram that the training text does not have."""


@dataclass(frozen=True)
class Order:
    """What is known of all n-grams of one length.

    Attributes:
        keys_G: `context * V + word` of each n-gram, rising; a context is the number of an n-gram
            one word shorter.
        kept_G: share of its context's count that the n-gram keeps after the discount.
        passed_on: by context, share that goes to the next shorter n-grams.
    """

    keys_G: Ids
    kept_G: FloatArray
    passed_on: FloatArray


class KneserNey:
    """A model of n-grams.

    Args:
        text_N: training text, word ids.
        num_words: V.
        order: longest n-gram, at least 1.
        first_word: what stands before the text's first word.
    """

    def __init__(self, text_N: Ids, num_words: int, order: int, first_word: int) -> None:
        self.num_words = num_words
        self.first_word = first_word
        text_N = self._padded(text_N, order)
        grams_N, keys = np.zeros(len(text_N), dtype=np.int64), []
        by_order = [grams_N]
        for _ in range(order):
            contexts_N = np.concatenate([[0], by_order[-1][:-1]])
            keys_G, grams_N = np.unique(contexts_N * num_words + text_N, return_inverse=True)
            keys.append(keys_G)
            by_order.append(grams_N)
        self.orders = []
        for length in range(1, order + 1):
            # The longest are counted; of others it counts in how many longer ones they end.
            endings = by_order[length][order - 1 :]
            if length < order:
                longer = by_order[length + 1][order - 1 :]
                endings = endings[np.unique(longer, return_index=True)[1]]
            counts_G = np.bincount(endings, minlength=len(keys[length - 1]))
            num_contexts = len(keys[length - 2]) if length > 1 else 1
            self.orders.append(_smoothed(keys[length - 1], counts_G, num_words, num_contexts))

    @property
    def num_ngrams(self) -> int:
        """N-grams of all lengths that are stored."""
        return sum(len(one.keys_G) for one in self.orders)

    def log_probabilities(self, text_N: Ids) -> FloatArray:
        """Return log P of each word of a text, given all words before it that the order reaches."""
        num_padded = len(self.orders) - 1
        text_N = self._padded(text_N, len(self.orders))
        probability_N = np.full(len(text_N), 1 / self.num_words)
        grams_N = np.zeros(len(text_N), dtype=np.int64)
        for one in self.orders:
            contexts_N = np.concatenate([[0 if one is self.orders[0] else UNSEEN], grams_N[:-1]])
            known_N = contexts_N != UNSEEN
            grams_N = _find(one.keys_G, contexts_N * self.num_words + text_N, known_N)
            kept_N = np.where(grams_N == UNSEEN, 0.0, one.kept_G[grams_N])
            passed_on_N = np.where(known_N, one.passed_on[contexts_N], 1.0)
            probability_N = kept_N + passed_on_N * probability_N
        return np.log(probability_N[num_padded:])

    def _padded(self, text_N: Ids, order: int) -> Ids:
        return np.concatenate([np.full(order - 1, self.first_word), text_N.astype(np.int64)])


def _smoothed(keys_G: Ids, counts_G: Ids, num_words: int, num_contexts: int) -> Order:
    contexts_G = keys_G // num_words
    discounts_G = _discounts(counts_G)[np.minimum(counts_G, 3)]
    totals = np.bincount(contexts_G, weights=counts_G, minlength=num_contexts)
    taken = np.bincount(contexts_G, weights=discounts_G, minlength=num_contexts)
    # A context that nothing follows, such as the text's end, passes all on.
    followed = totals > 0
    totals[~followed] = taken[~followed] = 1.0
    return Order(keys_G, (counts_G - discounts_G) / totals[contexts_G], taken / totals)


def _discounts(counts_G: Ids) -> FloatArray:
    """Return what is taken from counts of 0, 1, 2 and 3 or more, by how many there are of each."""
    num_1, num_2, num_3, num_4 = (int((counts_G == count).sum()) for count in (1, 2, 3, 4))
    if not (num_1 and num_2 and num_3):
        return np.array([0.0, 0.5, 0.5, 0.5])
    rate = num_1 / (num_1 + 2 * num_2)
    discounts = [1 - 2 * rate * num_2 / num_1, 2 - 3 * rate * num_3 / num_2]
    discounts.append(3 - 4 * rate * num_4 / num_3)
    return np.concatenate([[0.0], np.clip(discounts, 0.05, [0.95, 1.9, 2.9])])


def _find(keys_G: Ids, keys_N: Ids, known_N: npt.NDArray[np.bool_]) -> Ids:
    """Return the place of each key, `UNSEEN` where it is missing or its context is."""
    places_N = np.minimum(np.searchsorted(keys_G, keys_N), len(keys_G) - 1)
    return np.where(known_N & (keys_G[places_N] == keys_N), places_N, UNSEEN)
