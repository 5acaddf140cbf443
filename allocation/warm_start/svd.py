"""A first table from the text alone: words with like neighbours share rows and columns."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from allocation.collectives import broadcast_table, run_together
from allocation.communicators import Communicator
from allocation.warm_start.neighbours import Tokens, count_neighbours
from allocation.warm_start.placement import place_words
from allocation.warm_start.word_vectors import word_vectors
from lightrnn.errors import LightRNNError
from lightrnn.table import WordTable

NUM_CONTEXTS = 30_000

COUNT_POWER = 0.75
"""How much a word counts in placing: its number of occurrences to this power."""


def svd_table(
    tokens: Tokens,
    word_counts: npt.ArrayLike,
    num_rows: int,
    num_columns: int,
    seed: int,
    communicator: Communicator,
    *,
    user_errors: tuple[type[Exception], ...] = (LightRNNError,),
    on_progress: Callable[[str], None] = lambda line: None,
) -> WordTable:
    """Return a table from the singular vectors of counts of neighbours; called by all ranks.

    All ranks count, rank 0 does the rest. The table is the same for any number of ranks.

    Args:
        tokens: the training text, the same on every rank.
        word_counts: occurrences of each word, [V].
        num_rows, num_columns: R and C.
        seed: the same seed gives the same table.
        communicator: all ranks; it has to wait for rank 0, minutes for a million words.
        user_errors: what reading the text may raise for a user to mend.
        on_progress: gets one line now and then.

    Raises:
        WordTableError: the table is too small for the words.
        LightRNNError: a rank cannot read the text, or has no room on disk; on every rank.
    """
    counts_V = np.asarray(word_counts, dtype=np.int64)
    start = WordTable.random(len(counts_V), num_rows, num_columns, seed)
    on_progress(f"counting neighbours in {len(tokens)} tokens")
    neighbours = count_neighbours(tokens, counts_V, NUM_CONTEXTS, communicator, user_errors)

    def place() -> WordTable | None:
        if neighbours is None:
            return None
        num_pairs = neighbours.after.nnz + neighbours.before.nnz
        on_progress(f"word vectors from {num_pairs} different pairs")
        vectors_VD = word_vectors(neighbours, seed)
        weights_V = (counts_V / max(counts_V.mean(), 1.0)) ** COUNT_POWER
        return place_words(vectors_VD, weights_V.astype(np.float32), start, on_progress)

    return broadcast_table(run_together(place, communicator), start, communicator)
