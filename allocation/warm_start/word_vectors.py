"""Vectors of words from what stands next to them: shifted positive PMI and its singular vectors.

The method is that of Levy, Goldberg, "Neural word embedding as implicit matrix factorization",
2014, with the randomised decomposition of Halko, Martinsson, Tropp, "Finding structure with
randomness", 2011, algorithms 4.4 and 5.1.

Legend: V words, K contexts, D dimensions, S dimensions of the sketch.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from scipy import sparse

from allocation.warm_start.neighbours import NeighbourCounts

NUM_DIMENSIONS = 64
"""Of each view."""

CONTEXT_SMOOTHING = 0.75
"""Power of the contexts' counts: rare contexts get less weight (Levy et al., 2015)."""

SHIFT = 5.0
"""Pairs count that are more than this many times as frequent as by chance."""

NUM_OVERSAMPLES = 32
NUM_POWER_ITERATIONS = 4

LEAST_SQUARE = 1e-12
"""Squared length of a direction, as a share of the longest one's, that is more than rounding."""

WORDS_PER_BLOCK = 1 << 16

FloatMatrix = npt.NDArray[np.float32]


def word_vectors(
    neighbours: NeighbourCounts, seed: int, num_dimensions: int = NUM_DIMENSIONS
) -> FloatMatrix:
    """Describe each word by the words before it and by the words after it.

    Args:
        neighbours: counts of pairs; they are overwritten.
        seed: of the random decomposition.
        num_dimensions: of each of both views, where the text has as many.

    Returns:
        Vectors of length 1, or 0 for words whose neighbours tell nothing, float32 [V, 2D].
    """

    def view(counts: sparse.csr_array) -> FloatMatrix:
        weigh_by_information(counts)
        counts.eliminate_zeros()
        left_VD, singular_D = truncated_svd(counts, num_dimensions, seed)
        return unit_length(left_VD * singular_D)

    # Products with sparse matrices keep one core busy each.
    with ThreadPoolExecutor(2) as pool:
        views = list(pool.map(view, (neighbours.after, neighbours.before)))
    return unit_length(np.concatenate(views, axis=1))


def weigh_by_information(counts: sparse.csr_array, shift: float = SHIFT) -> None:
    """Replace counts by shifted positive pointwise mutual information.

    `max(0, log(p(word, context) / (p(word) * p(context))) - log(shift))`, with the contexts'
    probabilities smoothed.

    Args:
        counts: how often each word has each context, [V, K]; overwritten.
        shift: pairs have to be this many times more frequent than by chance.
    """
    per_word = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    per_context = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel() ** CONTEXT_SMOOTHING
    per_context /= max(per_context.sum(), 1.0)
    for start in range(0, len(per_word), WORDS_PER_BLOCK):
        ends = counts.indptr[start : start + WORDS_PER_BLOCK + 1]
        block = slice(ends[0], ends[-1])
        by_chance = np.repeat(per_word[start : start + WORDS_PER_BLOCK], np.diff(ends))
        by_chance *= shift * per_context[counts.indices[block]]
        counts.data[block] = np.maximum(np.log(counts.data[block] / by_chance), 0.0)


def truncated_svd(
    matrix: sparse.csr_array, num_dimensions: int, seed: int
) -> tuple[FloatMatrix, FloatMatrix]:
    """Return the first left singular vectors, float32 [V, D], and singular values, float32 [D].

    Args:
        matrix: float32 [V, K].
        num_dimensions: D at most; the smaller side of the matrix bounds it.
        seed: of the sketch.
    """
    num_words, num_contexts = matrix.shape
    width = min(num_dimensions + NUM_OVERSAMPLES, num_words, num_contexts)
    random = np.random.default_rng(seed)
    sketch_KS = random.standard_normal((num_contexts, width), dtype=np.float32)
    basis_VS = _orthonormal(matrix @ sketch_KS)
    for _ in range(NUM_POWER_ITERATIONS):
        basis_VS = _orthonormal(matrix @ _orthonormal(matrix.T @ basis_VS))
    inner_KS = matrix.T @ basis_VS
    left_SS, singular_S = np.linalg.svd(inner_KS.T, full_matrices=False)[:2]
    width = min(num_dimensions, width)
    return basis_VS @ left_SS[:, :width], singular_S[:width]


def unit_length(vectors: FloatMatrix) -> FloatMatrix:
    """Return vectors [N, D] scaled to length 1; those of length 0 stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _orthonormal(matrix: FloatMatrix) -> FloatMatrix:
    """Return an orthonormal basis of a tall matrix's columns, of the same shape.

    From the eigenvectors of its Gram matrix, which takes a fraction of the time of a QR
    decomposition; the second time makes up for rounding. Directions of no length become 0.
    """
    for _ in range(2):
        gram_SS = np.zeros((matrix.shape[1], matrix.shape[1]))
        for start in range(0, len(matrix), WORDS_PER_BLOCK):
            block = matrix[start : start + WORDS_PER_BLOCK].astype(np.float64)
            gram_SS += block.T @ block
        squares_S, directions_SS = np.linalg.eigh(gram_SS)
        kept_S = squares_S > LEAST_SQUARE * squares_S[-1]
        scales_S = np.where(kept_S, 1 / np.sqrt(np.where(kept_S, squares_S, 1.0)), 0.0)
        matrix = matrix @ (directions_SS * scales_S).astype(np.float32)
    return matrix
