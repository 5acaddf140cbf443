"""A table from vectors of words: every word near the sum of its row's and its column's vector.

The vector of a word is to be `row vector + column vector`, with the least weighted sum of squared
errors over all tables and all such vectors. At first rows are clusters of like words. Then, by
turns: the words of each row are matched to the columns, the words of each column to the rows, both
nearly as well as can be, and the vectors are fitted to the words again.

Legend: V words, R rows, C columns, D dimensions, N words of a line, L lines: all rows, or all
columns; P places in a line: the columns of a row, or the rows of a column.
"""

from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
from scipy import sparse

from allocation.threads import side_by_side
from allocation.warm_start.matching import match
from allocation.warm_start.word_vectors import unit_length
from lightrnn.table import WordTable

NUM_CLUSTERINGS = 12
WORDS_PER_BLOCK = 4096
MAX_SWEEPS = 12
MIN_GAIN = 4e-3
"""A sweep that takes less than this share off the error is the last: nothing is gained by more."""

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


def place_words(
    vectors_VD: FloatArray,
    weights_V: FloatArray,
    start: WordTable,
    on_progress: Callable[[str], None],
) -> WordTable:
    """Return a table where words of a row, and words of a column, have similar vectors.

    Args:
        vectors_VD: what words are like, float32 [V, D].
        weights_V: how much each word's error counts, 0 or more, float32 [V].
        start: where words are at first, best by chance.
        on_progress: gets one line a sweep.
    """
    grid = _Grid(vectors_VD, weights_V, cluster_rows(vectors_VD, weights_V, start))
    on_progress(f"placing words: clustered into {start.num_rows} rows")
    error = grid.error()
    for sweep in range(1, MAX_SWEEPS + 1):
        grid.sweep()
        before, error = error, grid.error()
        on_progress(f"placing words, sweep {sweep}: {100 * error:.2f} % of the variance left over")
        if before - error <= MIN_GAIN * before:
            break
    return WordTable(grid.row_of_word, grid.column_of_word, start.num_rows, start.num_columns)


def cluster_rows(vectors_VD: FloatArray, weights_V: FloatArray, start: WordTable) -> WordTable:
    """Return a table whose rows are clusters of like words, by k-means on the sphere.

    No row may hold more words than it has columns. The words of most weight choose first, so that
    those that find their best row full weigh little.

    Args:
        vectors_VD, weights_V: as in `place_words`.
        start: its rows are the first clusters.
    """
    order = np.argsort(-weights_V, kind="stable")
    row_of_word = start.row_of_word.copy()
    for _ in range(NUM_CLUSTERINGS):
        ends = np.arange(len(order) + 1)
        members_RV = sparse.csc_array(
            (weights_V, row_of_word, ends), shape=(start.num_rows, len(order))
        )
        centers_RD = unit_length(members_RV @ vectors_VD)
        sizes_R = np.zeros(start.num_rows, np.int32)
        for words in np.split(order, range(WORDS_PER_BLOCK, len(order), WORDS_PER_BLOCK)):
            likeness_NR = vectors_VD[words] @ centers_RD.T
            _choose_rows(words, likeness_NR, start.num_columns, sizes_R, row_of_word)
    # Columns by chance: were frequent words together in some, matching would leave them there.
    by_chance = np.lexsort((start.column_of_word, start.row_of_word, row_of_word))
    first_of_row_R = np.concatenate([[0], np.cumsum(sizes_R)[:-1]])
    column_of_word = np.empty_like(row_of_word)
    column_of_word[by_chance] = np.arange(len(order)) - first_of_row_R[row_of_word[by_chance]]
    return WordTable(row_of_word, column_of_word, start.num_rows, start.num_columns)


@numba.njit(cache=True, nogil=True)
def _choose_rows(  # type: ignore[no-untyped-def]
    words, likeness_NR, capacity, sizes_R, row_of_word
):
    """Put each word into the row that it is most like, of those with room."""
    for number in range(len(words)):
        best_row = int(np.argmax(likeness_NR[number]))
        if sizes_R[best_row] == capacity:
            best = -np.inf
            for row in range(len(sizes_R)):
                if sizes_R[row] < capacity and likeness_NR[number, row] > best:
                    best, best_row = likeness_NR[number, row], row
        row_of_word[words[number]] = best_row
        sizes_R[best_row] += 1


class _Grid:
    """Words in cells, and the vectors of rows and columns that fit them."""

    def __init__(self, vectors_VD: FloatArray, weights_V: FloatArray, start: WordTable) -> None:
        # Without the mean, which no table explains, lines of no weight may have the vector 0.
        mean_D = np.average(vectors_VD, axis=0, weights=weights_V) if weights_V.any() else 0.0
        self.vectors_VD = np.asarray(vectors_VD - mean_D, dtype=np.float32)
        self.weights_V = weights_V
        self.row_of_word, self.column_of_word = (
            start.row_of_word.copy(),
            start.column_of_word.copy(),
        )
        num_dimensions = vectors_VD.shape[1]
        self.row_vectors_RD = np.zeros((start.num_rows, num_dimensions), np.float32)
        self.column_vectors_CD = np.zeros((start.num_columns, num_dimensions), np.float32)
        self._fit()

    def sweep(self) -> None:
        """Match the words of each row to columns, then those of each column to rows."""
        rows, columns = self.row_of_word, self.column_of_word
        self._match(rows, columns, self.row_vectors_RD, self.column_vectors_CD)
        self._fit()
        self._match(columns, rows, self.column_vectors_CD, self.row_vectors_RD)
        self._fit()

    def error(self) -> float:
        """Return the weighted squared error as a share of the variance of the vectors."""
        left_VD = self.vectors_VD - self.row_vectors_RD[self.row_of_word]
        left_VD -= self.column_vectors_CD[self.column_of_word]
        return self._weighted_square(left_VD) / (self._weighted_square(self.vectors_VD) or 1.0)

    def _weighted_square(self, vectors_VD: FloatArray) -> float:
        squares_V = np.einsum("vd,vd->v", vectors_VD, vectors_VD)
        return float(squares_V.astype(np.float64) @ self.weights_V)

    def _fit(self) -> None:
        """Fit the vectors of rows, then those of columns, to the words as they are placed."""
        left_VD = self.vectors_VD - self.column_vectors_CD[self.column_of_word]
        self.row_vectors_RD = self._means(left_VD, self.row_of_word, len(self.row_vectors_RD))
        left_VD = self.vectors_VD - self.row_vectors_RD[self.row_of_word]
        self.column_vectors_CD = self._means(
            left_VD, self.column_of_word, len(self.column_vectors_CD)
        )

    def _means(self, vectors_VD: FloatArray, line_of_word: IntArray, num_lines: int) -> FloatArray:
        """Return the weighted means by line, float32 [L, D]; 0 for lines of no weight."""
        num_words = len(vectors_VD)
        totals_L = np.bincount(line_of_word, self.weights_V, num_lines)
        shares_V = self.weights_V / np.where(totals_L > 0, totals_L, 1.0)[line_of_word]
        ends = np.arange(num_words + 1)
        shares_LV = sparse.csc_array((shares_V, line_of_word, ends), shape=(num_lines, num_words))
        return np.asarray(shares_LV.astype(np.float32) @ vectors_VD)

    def _match(
        self,
        line_of_word: IntArray,
        place_of_word: IntArray,
        line_vectors_LD: FloatArray,
        place_vectors_PD: FloatArray,
    ) -> None:
        """Give the words of each line different places, with about the least error in all."""
        half_squares_P = np.einsum("pd,pd->p", place_vectors_PD, place_vectors_PD) / 2

        def match_line(line: int) -> None:
            words = words_of_line[line]
            left_ND = self.vectors_VD[words] - line_vectors_LD[line]
            error_NP = half_squares_P - left_ND @ place_vectors_PD.T
            error_NP *= self.weights_V[words, None]
            place_of_word[words] = match(error_NP)

        num_lines = len(line_vectors_LD)
        ends = np.cumsum(np.bincount(line_of_word, minlength=num_lines))
        order = np.lexsort((-self.weights_V, line_of_word))
        words_of_line = np.split(order, ends[:-1])
        side_by_side(match_line, range(num_lines))
