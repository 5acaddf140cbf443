"""What every word would cost in every cell, without a matrix over words and cells.

Given the hidden states, the loss of a word is a sum over its row and its column, so the losses by
row and by column hold the price of all `V x R x C` placements. At a million words even these are
gigabytes; `FactoredCosts` works them out block by block from sums of hidden states.

Legend: V words, R rows, C columns, F features, N some of the words.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from allocation.candidates import (
    NO_CELL,
    BestLines,
    best_cells,
    best_lines,
    least_by_few_lines,
    line_prices_of,
)
from allocation.candidates import FloatArray as FloatArray
from allocation.candidates import LossArray as LossArray
from allocation.errors import AllocationError
from allocation.threads import side_by_side
from lightrnn.table import WordTable, check_capacity

Words: TypeAlias = slice | npt.NDArray[np.int64]
"""Which words: a slice over their ids, or the ids."""

WORDS_PER_BLOCK = 4096
LOSSES_PER_PIECE = 1 << 18
"""As many as stay in a processor's cache between the steps that work them out."""

LINES_OF_FIRST_SEARCH = 64
"""Rows and columns a word among which its best cell is looked for, before more are."""


class CellCosts(ABC):
    """The training loss of each word, were it in a given row and a given column.

    Word `w` in cell `(i, j)` costs its loss in row `i` plus its loss in column `j` (Li et al.,
    2016, section 3.2), summed over its occurrences. A constant added to all of a word's losses
    changes no decision, and negative losses are fine. A word that never occurred costs the same in
    every cell.

    Args:
        counts: occurrences of each word, [V].
        num_rows, num_columns: R and C.

    Raises:
        AllocationError: a count is negative or not finite.
        WordTableError: V words have no room in R x C cells.
    """

    def __init__(self, counts: npt.ArrayLike, num_rows: int, num_columns: int) -> None:
        self.counts_V = np.asarray(counts, dtype=np.float64)
        self.num_rows, self.num_columns = num_rows, num_columns
        check_capacity(self.num_words, num_rows, num_columns)
        wrong = np.flatnonzero(~np.isfinite(self.counts_V) | (self.counts_V < 0))
        if len(wrong):
            raise AllocationError(
                f"word {wrong[0]} has the count {self.counts_V[wrong[0]]}, expected 0 or more"
            )

    @property
    def num_words(self) -> int:
        """V."""
        return len(self.counts_V)

    @property
    def num_cells(self) -> int:
        """R * C."""
        return self.num_rows * self.num_columns

    @abstractmethod
    def losses(
        self, words: Words, dtype: type[np.floating] = np.float64
    ) -> tuple[FloatArray, FloatArray]:
        """Return the losses of some words by row [N, R] and by column [N, C], nats.

        Args:
            words: whose.
            dtype: float64, or float32 where speed matters more than the last digits; then each
                word's least loss by row and by column may be taken off.
        """

    def blocks(
        self, words_per_block: int = WORDS_PER_BLOCK
    ) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
        """Yield all words block by block, with their losses in float64."""
        for start in range(0, self.num_words, words_per_block):
            words = slice(start, min(start + words_per_block, self.num_words))
            yield words, *self.losses(words)

    def candidates(
        self, words: Words, num_lines: int, line_prices: tuple[LossArray, LossArray]
    ) -> tuple[BestLines, BestLines]:
        """Return the best rows and the best columns of some words, in float32.

        Args:
            words: whose.
            num_lines: rows and columns a word.
            line_prices: of rows [R] and of columns [C], added to the losses to find the best.
        """
        by_row, by_column = self.losses(words, np.float32)
        return (
            best_lines(by_row, num_lines, line_prices[0]),
            best_lines(by_column, num_lines, line_prices[1]),
        )

    def least_costs(self, prices_RC: LossArray) -> LossArray:
        """Return what each word's best cell costs by loss + price, float64 [V].

        The search is exact: it ends with a proof that no cell is better.

        Args:
            prices_RC: price of each cell, 0 or more.
        """
        least_V = np.empty(self.num_words)
        line_prices = line_prices_of(prices_RC)
        for words, *losses in self.blocks():
            least_V[words] = _least_costs(losses, prices_RC, line_prices)
        return least_V

    def costs_at(self, table: WordTable) -> LossArray:
        """Return the loss of each word in its cell in nats, float64 [V].

        Raises:
            AllocationError: the table has another shape or number of words.
        """
        self.check_table(table)
        costs_V = np.empty(self.num_words)
        for words, row_loss_NR, column_loss_NC in self.blocks():
            every = np.arange(len(row_loss_NR))
            costs_V[words] = row_loss_NR[every, table.row_of_word[words]]
            costs_V[words] += column_loss_NC[every, table.column_of_word[words]]
        return costs_V

    def objective(self, table: WordTable) -> float:
        """Return the loss of the whole table in nats; the order of words is free.

        Raises:
            AllocationError: the table has another shape or number of words.
        """
        return math.fsum(self.costs_at(table).tolist())

    def _check_absent(self, side: str, differences: npt.NDArray[np.generic]) -> None:
        """Raise `AllocationError` where a word of count 0 prefers some cells to others."""
        wrong = np.flatnonzero(self.counts_V == 0)[np.flatnonzero(differences)]
        if len(wrong):
            raise AllocationError(
                f"word {wrong[0]} has the count 0 but losses by {side} that differ, expected "
                "occurrences wherever there are losses"
            )

    def check_table(self, table: WordTable) -> None:
        """Raise `AllocationError` where a table is not one of these words, rows and columns."""
        found = table.num_words, table.num_rows, table.num_columns
        expected = self.num_words, self.num_rows, self.num_columns
        if found != expected:
            raise AllocationError(
                f"the table has {found[0]} words in {found[1]} x {found[2]} cells, expected "
                f"{expected[0]} words in {expected[1]} x {expected[2]} as in the costs"
            )


class DenseCosts(CellCosts):
    """Losses held as two matrices, for small tables.

    Args:
        row_loss_VR: loss by row in nats, [V, R]; float32 and float64 are kept, not copied.
        column_loss_VC: loss by column in nats, [V, C].
        counts: occurrences of each word, [V]; without it one each.

    Raises:
        AllocationError: the shapes do not agree, or a loss is not finite.
        WordTableError: V words have no room in R x C cells.
    """

    def __init__(
        self,
        row_loss_VR: npt.ArrayLike,
        column_loss_VC: npt.ArrayLike,
        counts: npt.ArrayLike | None = None,
    ) -> None:
        self.row_loss_VR, self.column_loss_VC = map(_as_losses, (row_loss_VR, column_loss_VC))
        shapes = self.row_loss_VR.shape, self.column_loss_VC.shape
        if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][0]:
            raise AllocationError(
                f"row_loss_VR has shape {shapes[0]} and column_loss_VC {shapes[1]}, "
                "expected [words, rows] and [words, columns] with equally many words"
            )
        if counts is None:
            counts = np.ones(shapes[0][0])
        if np.shape(counts) != shapes[0][:1]:
            raise AllocationError(
                f"counts has shape {np.shape(counts)}, expected one for each of {shapes[0][0]} "
                "words"
            )
        super().__init__(counts, shapes[0][1], shapes[1][1])
        absent = self.counts_V == 0
        for side, loss in (("row", self.row_loss_VR), ("column", self.column_loss_VC)):
            _check_finite(side, loss)
            self._check_absent(side, np.ptp(loss[absent], axis=1))

    def losses(
        self, words: Words, dtype: type[np.floating] = np.float64
    ) -> tuple[FloatArray, FloatArray]:
        row_loss, column_loss = self.row_loss_VR[words], self.column_loss_VC[words]
        if dtype is np.float32:
            row_loss = row_loss - row_loss.min(axis=1, keepdims=True)
            column_loss = column_loss - column_loss.min(axis=1, keepdims=True)
        return row_loss.astype(dtype, copy=False), column_loss.astype(dtype, copy=False)


class FactoredCosts(CellCosts):
    """Losses worked out from features of words and vectors of rows and columns.

    The loss of word `w` in row `i` is `constant[w] - <features[w], vectors[i]> - n[w] * bias[i]`,
    and likewise by column: with sums of hidden states as features, output vectors, and the sums of
    log-normalisers as constants it is the training loss.

    Args:
        features: of each word for rows and for columns, each float32 or float64 [V, F]; may be
            memory-mapped. The two widths may differ.
        vectors: of rows [R, F] and of columns [C, F].
        biases: of rows [R] and of columns [C].
        constants: added to all losses of a word by row and by column, each [V].
        counts: occurrences of each word, [V].

    Raises:
        AllocationError: shapes do not agree, or a number is not finite.
        WordTableError: V words have no room in R x C cells.
    """

    def __init__(
        self,
        features: tuple[FloatArray, FloatArray],
        vectors: tuple[FloatArray, FloatArray],
        biases: tuple[FloatArray, FloatArray],
        constants: tuple[LossArray, LossArray],
        counts: npt.ArrayLike,
    ) -> None:
        super().__init__(counts, len(vectors[0]), len(vectors[1]))
        self.features, self.vectors = features, vectors
        self.biases, self.constants = biases, constants
        # In float64: there the products of what `shorten` leaves are exact, and a word has the
        # same losses in any block of words, on any rank.
        self._to_losses = [
            (-np.asarray(vectors_LF, np.float64).T, np.asarray(biases_L, np.float64))
            for vectors_LF, biases_L in zip(vectors, biases, strict=True)
        ]
        for side, name in enumerate(("row", "column")):
            width = vectors[side].shape[1]
            found = features[side].shape, biases[side].shape, constants[side].shape
            expected = (self.num_words, width), (len(vectors[side]),), (self.num_words,)
            if found != expected:
                raise AllocationError(
                    f"features, biases and constants by {name} have the shapes {found}, "
                    f"expected {expected}"
                )
            _check_finite_features(name, features[side], constants[side])
            self._check_absent(name, np.abs(features[side][self.counts_V == 0]).sum(axis=1))
            if not (np.isfinite(vectors[side]).all() and np.isfinite(biases[side]).all()):
                raise AllocationError(
                    f"the output vectors of {name}s are not finite, expected finite numbers; "
                    "check the training loss"
                )

    def losses(
        self, words: Words, dtype: type[np.floating] = np.float64
    ) -> tuple[FloatArray, FloatArray]:
        counts_N = self.counts_V[words]
        by_row = np.empty((len(counts_N), self.num_rows), dtype)
        by_column = np.empty((len(counts_N), self.num_columns), dtype)
        constants = self.constants[0][words], self.constants[1][words]
        features = self.features[0][words], self.features[1][words]

        def work_out(piece: slice) -> None:
            for side, losses_NL in enumerate((by_row, by_column)):
                vectors_FL, biases_L = self._to_losses[side]
                loss = features[side][piece].astype(np.float64) @ vectors_FL
                loss -= counts_N[piece, None] * biases_L
                if dtype is np.float32:
                    loss -= loss.min(axis=1, keepdims=True)
                else:
                    loss += constants[side][piece, None]
                losses_NL[piece] = loss

        length = max(1, LOSSES_PER_PIECE // (self.num_rows + self.num_columns))
        side_by_side(
            work_out, [slice(start, start + length) for start in range(0, len(counts_N), length)]
        )
        return by_row, by_column

    def costs_at(self, table: WordTable) -> LossArray:
        self.check_table(table)
        costs_V = np.zeros(self.num_words)
        for start in range(0, self.num_words, WORDS_PER_BLOCK):
            words = slice(start, start + WORDS_PER_BLOCK)
            for side, line_of_word in enumerate((table.row_of_word, table.column_of_word)):
                lines_N = line_of_word[words]
                products_NF = self.features[side][words].astype(np.float64)
                products_NF *= self.vectors[side][lines_N]
                costs_V[words] -= products_NF.sum(axis=1)
                costs_V[words] -= self.counts_V[words] * self.biases[side][lines_N]
                costs_V[words] += self.constants[side][words]
        return costs_V


class PenalizedCosts(CellCosts):
    """Other costs, plus what it costs a word to leave its row and its column.

    Args:
        costs: what the words cost without it.
        table: where the words are.
        row_penalty_RR: nats a token for going from a row to a row, [R, R].
        column_penalty_CC: nats a token for going from a column to a column, [C, C].

    Raises:
        AllocationError: the table is of another shape, or a penalty is negative or not finite.
    """

    def __init__(
        self,
        costs: CellCosts,
        table: WordTable,
        row_penalty_RR: FloatArray,
        column_penalty_CC: FloatArray,
    ) -> None:
        super().__init__(costs.counts_V, costs.num_rows, costs.num_columns)
        costs.check_table(table)
        self.costs, self.table = costs, table
        self.penalties = row_penalty_RR, column_penalty_CC
        for penalty, size in zip(self.penalties, (self.num_rows, self.num_columns), strict=True):
            if penalty.shape != (size, size) or not (np.isfinite(penalty) & (penalty >= 0)).all():
                raise AllocationError(
                    f"penalties have shape {penalty.shape} and the least {penalty.min()}, expected "
                    f"{(size, size)} finite numbers, 0 or more"
                )

    def losses(
        self, words: Words, dtype: type[np.floating] = np.float64
    ) -> tuple[FloatArray, FloatArray]:
        by_row, by_column = self.costs.losses(words, dtype)
        counts = self.counts_V[words, None].astype(dtype)
        places = self.table.row_of_word[words], self.table.column_of_word[words]
        row_penalty, column_penalty = (
            counts * penalty[place].astype(dtype)
            for penalty, place in zip(self.penalties, places, strict=True)
        )
        return by_row + row_penalty, by_column + column_penalty

    def costs_at(self, table: WordTable) -> LossArray:
        self.check_table(table)
        row_penalty, column_penalty = self.penalties
        penalty_V = row_penalty[self.table.row_of_word, table.row_of_word].astype(np.float64)
        penalty_V += column_penalty[self.table.column_of_word, table.column_of_word]
        return self.costs.costs_at(table) + self.counts_V * penalty_V


def with_stay_bonus(costs: CellCosts, table: WordTable, bonus_nats: float) -> CellCosts:
    """Make every move away from a table cost something.

    Args:
        costs: what the words cost without it.
        table: where the words are now; its own objective does not change.
        bonus_nats: what leaving the row costs a token, and leaving the column once more.

    Raises:
        AllocationError: the bonus is negative or not finite, or a shape is wrong.
    """
    if not (math.isfinite(bonus_nats) and bonus_nats >= 0):
        raise AllocationError(f"the stay bonus is {bonus_nats} nats, expected 0 or more")
    if bonus_nats == 0:
        return costs
    row_penalty, column_penalty = (
        bonus_nats * (1.0 - np.eye(size)) for size in (costs.num_rows, costs.num_columns)
    )
    return PenalizedCosts(costs, table, row_penalty, column_penalty)


def _least_costs(
    losses: list[FloatArray], prices_RC: LossArray, line_prices: tuple[LossArray, LossArray]
) -> LossArray:
    """Return the least loss + price of some words, given their losses by row and by column."""
    num_lines = LINES_OF_FIRST_SEARCH
    least_N = least_by_few_lines(losses[0], losses[1], prices_RC, line_prices)
    open_words = np.flatnonzero(np.isnan(least_N))
    while len(open_words):
        by_row, by_column = (
            best_lines(loss[open_words], num_lines, prices)
            for loss, prices in zip(losses, line_prices, strict=True)
        )
        best = best_cells((by_row, by_column), prices_RC, line_prices, 1)
        cells = best.cells_NM[:, 0]
        found = cells != NO_CELL
        least_N[open_words[found]] = best.losses_NM[found, 0] + prices_RC.flat[cells[found]]
        open_words = open_words[~found]
        num_lines *= 8
    return least_N


def _as_losses(losses: npt.ArrayLike) -> FloatArray:
    array = np.asarray(losses)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    # A view: read-only for all who get it from here, untouched for the owner.
    array = array.view()
    array.setflags(write=False)
    return array


def _check_finite(side: str, loss: FloatArray) -> None:
    if not loss.size:
        return
    # Extremes a word, not a mask over the matrix: a NaN goes through both of them.
    wrong = np.flatnonzero(~(np.isfinite(loss.min(axis=1)) & np.isfinite(loss.max(axis=1))))
    if len(wrong):
        word = int(wrong[0])
        place = int(np.flatnonzero(~np.isfinite(loss[word]))[0])
        raise AllocationError(
            f"word {word} has the loss {loss[word, place]} in {side} {place} "
            f"({len(wrong)} words have such losses), expected finite losses; "
            "check the model's parameters and the training loss"
        )


def _check_finite_features(side: str, features: FloatArray, constants: LossArray) -> None:
    for start in range(0, len(features), WORDS_PER_BLOCK):
        block = slice(start, start + WORDS_PER_BLOCK)
        finite = np.isfinite(features[block]).all(axis=1) & np.isfinite(constants[block])
        if not finite.all():
            word = start + int(np.flatnonzero(~finite)[0])
            raise AllocationError(
                f"word {word} has a loss by {side} that is not finite, expected finite losses; "
                "check the model's parameters and the training loss"
            )
