"""What every word would cost in every cell, without a matrix over words and cells.

Given the hidden states, the loss of a word is a sum over its row and its column, so two matrices
hold the price of all `V x R x C` placements.

Legend: V words, R rows, C columns.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from allocation.errors import AllocationError
from lightrnn.table import WordTable, check_capacity

LossArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CellCosts:
    """The training loss of each word, were it in a given row and a given column.

    Word `w` in cell `(i, j)` costs `row_loss_VR[w, i] + column_loss_VC[w, j]` (Li et al., 2016,
    section 3.2), summed over its occurrences. A constant added to all of a word's losses changes
    no decision, and negative losses are fine. float64 arrays are kept as they are, not copied.

    Attributes:
        row_loss_VR: loss by row in nats, float64 [V, R].
        column_loss_VC: loss by column in nats, float64 [V, C].

    Raises:
        AllocationError: the shapes do not agree, or a loss is not finite.
        WordTableError: V words have no room in R x C cells.
    """

    row_loss_VR: LossArray
    column_loss_VC: LossArray

    def __post_init__(self) -> None:
        for name in ("row_loss_VR", "column_loss_VC"):
            # A view: read-only for all who get it from here, untouched for the owner.
            loss = np.asarray(getattr(self, name), dtype=np.float64).view()
            loss.setflags(write=False)
            object.__setattr__(self, name, loss)
        shapes = self.row_loss_VR.shape, self.column_loss_VC.shape
        if [len(shape) for shape in shapes] != [2, 2] or shapes[0][0] != shapes[1][0]:
            raise AllocationError(
                f"row_loss_VR has shape {shapes[0]} and column_loss_VC {shapes[1]}, "
                "expected [words, rows] and [words, columns] with equally many words"
            )
        check_capacity(self.num_words, self.num_rows, self.num_columns)
        _check_finite("row", self.row_loss_VR)
        _check_finite("column", self.column_loss_VC)

    @property
    def num_words(self) -> int:
        """V."""
        return len(self.row_loss_VR)

    @property
    def num_rows(self) -> int:
        """R."""
        return int(self.row_loss_VR.shape[1])

    @property
    def num_columns(self) -> int:
        """C."""
        return int(self.column_loss_VC.shape[1])

    def objective(self, table: WordTable) -> float:
        """Return the loss of the whole table in nats, rounded once (the order of words is free).

        Raises:
            AllocationError: the table has another shape or number of words.
        """
        self.check_table(table)
        words = np.arange(self.num_words)
        row_losses = self.row_loss_VR[words, table.row_of_word].tolist()
        column_losses = self.column_loss_VC[words, table.column_of_word].tolist()
        return math.fsum(row_losses + column_losses)

    def objective_by_word(self, table: WordTable) -> LossArray:
        """Return the loss of each word in its cell in nats, float64 [V].

        Raises:
            AllocationError: the table has another shape or number of words.
        """
        self.check_table(table)
        words = np.arange(self.num_words)
        row_losses = self.row_loss_VR[words, table.row_of_word]
        return row_losses + self.column_loss_VC[words, table.column_of_word]

    def with_stay_bonus(
        self, table: WordTable, bonus_nats: float, counts: npt.ArrayLike
    ) -> "CellCosts":
        """Make every move away from a table cost something.

        A word that moves also changes the inputs of all later steps, which these losses do not
        see; the bonus keeps words where they are unless the gain is worth it.

        Args:
            table: where the words are now; its own objective does not change.
            bonus_nats: what leaving the row costs a token, and leaving the column once more.
            counts: number of occurrences of each word, [V].

        Returns:
            New costs; both matrices are copied.

        Raises:
            AllocationError: the bonus or a count is negative or not finite, or a shape is wrong.
        """
        self.check_table(table)
        if not (math.isfinite(bonus_nats) and bonus_nats >= 0):
            raise AllocationError(f"the stay bonus is {bonus_nats} nats, expected 0 or more")
        counts_V = np.asarray(counts, dtype=np.float64)
        if counts_V.shape != (self.num_words,):
            raise AllocationError(
                f"counts has shape {counts_V.shape}, expected one for each of "
                f"{self.num_words} words"
            )
        wrong = np.flatnonzero(~np.isfinite(counts_V) | (counts_V < 0))
        if len(wrong):
            raise AllocationError(
                f"word {wrong[0]} has the count {counts_V[wrong[0]]}, expected 0 or more"
            )
        words = np.arange(self.num_words)
        penalties_V1 = (bonus_nats * counts_V)[:, None]
        row_loss = self.row_loss_VR + penalties_V1
        row_loss[words, table.row_of_word] = self.row_loss_VR[words, table.row_of_word]
        column_loss = self.column_loss_VC + penalties_V1
        column_loss[words, table.column_of_word] = self.column_loss_VC[words, table.column_of_word]
        return CellCosts(row_loss, column_loss)

    def check_table(self, table: WordTable) -> None:
        """Raise `AllocationError` where a table is not one of these words, rows and columns."""
        found = table.num_words, table.num_rows, table.num_columns
        expected = self.num_words, self.num_rows, self.num_columns
        if found != expected:
            raise AllocationError(
                f"the table has {found[0]} words in {found[1]} x {found[2]} cells, expected "
                f"{expected[0]} words in {expected[1]} x {expected[2]} as in the costs"
            )


def _check_finite(side: str, loss: LossArray) -> None:
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
