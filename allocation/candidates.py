"""The few rows, columns and cells that matter to a word: its best ones, in order.

A word's best cells are found without looking at all R x C of them. Its best rows and columns are
sorted, the pairs are walked best first, and the walk ends where no pair that is left can be better
than those found.

Legend: N words, R rows, C columns, L lines (the rows or the columns), K candidate lines a word,
M cells a word.
"""

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

# OpenMP's threads would end a forked process, and change the number of threads, hence the order, in
# which torch adds up from then on.
numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]

FloatArray = npt.NDArray[np.floating]
LossArray = npt.NDArray[np.float64]

NO_CELL = -1
"""Number of a cell that was not found."""

SAMPLE_SIZE = 128
"""Losses of a word from which a bound on its best ones is guessed."""


MOST_PAIRS = 1 << 14
"""So many pairs of a row and a column are looked at one by one, rather than sorted."""


@dataclass(frozen=True, eq=False)
class BestLines:
    """The best rows of some words, or their best columns, by loss + price, best first.

    Attributes:
        lines_NK: numbers of the rows (columns), uint16 [N, K].
        losses_NK: losses there without the price, float32 or float64 [N, K].
        tails_N: loss + price is at least this in all that are not listed, float64 [N]; infinite
            where all are listed.
    """

    lines_NK: npt.NDArray[np.uint16]
    losses_NK: FloatArray
    tails_N: LossArray


@dataclass(frozen=True, eq=False)
class BestCells:
    """The best cells of some words by loss + price, best first.

    Attributes:
        cells_NM: numbers `row * C + column`, int32 [N, M]; `NO_CELL` at the end where fewer are
            known to be the best.
        losses_NM: losses there without the price, float32 or float64 [N, M].
        tails_N: loss + price is at least this in all cells not listed, float64 [N].
    """

    cells_NM: npt.NDArray[np.int32]
    losses_NM: FloatArray
    tails_N: LossArray


def best_lines(loss_NL: FloatArray, num_lines: int, prices_L: LossArray) -> BestLines:
    """Find the best rows (or columns) of some words.

    Args:
        loss_NL: loss by row, or by column, [N, L] with L at most 65,536.
        num_lines: K; all L where it is more.
        prices_L: what is added to the losses before they are compared, [L].
    """
    num_lines = min(num_lines, loss_NL.shape[1])
    return BestLines(*_best_lines(np.ascontiguousarray(loss_NL), num_lines, prices_L))


def best_cells(
    lines: tuple[BestLines, BestLines],
    prices_RC: LossArray,
    line_prices: tuple[LossArray, LossArray],
    num_cells: int,
) -> BestCells:
    """Find the best cells of some words among all R x C.

    Args:
        lines: best rows and best columns of these words.
        prices_RC: price of each cell, at least the prices of its row and column together.
        line_prices: of rows [R] and of columns [C], which `lines` were found with.
        num_cells: M.
    """
    keys = [
        best.losses_NK + prices_L[best.lines_NK]
        for best, prices_L in zip(lines, line_prices, strict=True)
    ]
    by_row, by_column = lines
    return BestCells(
        *_best_cells(
            (by_row.lines_NK, by_row.losses_NK, keys[0], by_row.tails_N),
            (by_column.lines_NK, by_column.losses_NK, keys[1], by_column.tails_N),
            prices_RC,
            num_cells,
        )
    )


def line_prices_of(prices_RC: LossArray) -> tuple[LossArray, LossArray]:
    """Return prices of rows [R] and columns [C], as large as those of the cells allow."""
    row_prices = prices_RC.min(axis=1)
    return row_prices, (prices_RC - row_prices[:, None]).min(axis=0)


def least_by_few_lines(
    row_loss_NR: FloatArray,
    column_loss_NC: FloatArray,
    prices_RC: LossArray,
    line_prices: tuple[LossArray, LossArray],
) -> LossArray:
    """Return the least loss + price of some words, where a look at few cells proves it.

    That is where the best row and the best column meet in a cell that costs no more than both of
    them do, or where the best cell of the best row leaves few rows and columns that could be
    better.

    Args:
        row_loss_NR, column_loss_NC: losses of the words.
        prices_RC, line_prices: as in `best_cells`.

    Returns:
        Not a number for the other words, float64 [N].
    """
    return np.asarray(_least_by_few_lines(row_loss_NR, column_loss_NC, prices_RC, *line_prices))


@numba.njit(parallel=True, cache=True, nogil=True)
def _best_lines(loss_NL, num_lines, prices_L):  # type: ignore[no-untyped-def]
    """Sort each word's losses with prices, and keep the first ones; equal ones keep their order."""
    num_words, size = loss_NL.shape
    lines_NK = np.empty((num_words, num_lines), np.uint16)
    losses_NK = np.empty((num_words, num_lines), loss_NL.dtype)
    tails_N = np.full(num_words, np.inf)
    for word in numba.prange(num_words):
        keys_L = loss_NL[word] + prices_L
        if num_lines < size:
            near = _near_the_best(keys_L, num_lines)
            near_keys = keys_L[near]
            # All below the first one that is left out, then as many equal to it as there is room.
            limit = np.partition(near_keys, num_lines)[num_lines]
            tails_N[word] = limit
            kept = np.empty(num_lines, np.int64)
            found = 0
            for place in range(len(near)):
                if near_keys[place] < limit:
                    kept[found] = near[place]
                    found += 1
            for place in range(len(near)):
                if found == num_lines:
                    break
                if near_keys[place] == limit:
                    kept[found] = near[place]
                    found += 1
        else:
            kept = np.arange(size)
        order = np.argsort(keys_L[kept], kind="mergesort")
        for place in range(num_lines):
            line = kept[order[place]]
            lines_NK[word, place] = line
            losses_NK[word, place] = loss_NL[word, line]
    return lines_NK, losses_NK, tails_N


@numba.njit(cache=True, nogil=True)
def _near_the_best(keys_L, num_lines):  # type: ignore[no-untyped-def]
    """Return the numbers of the least keys, more than `num_lines` of them, in order.

    Partitioning these few is faster than partitioning all. Where a bound guessed from a sample
    leaves too few, they are all.
    """
    size = len(keys_L)
    stride = max(1, size // SAMPLE_SIZE)
    sample = keys_L[::stride].copy()
    rank = 2 * num_lines // stride + 8
    if rank < len(sample):
        bound = np.partition(sample, rank)[rank]
        near = np.empty(size, np.int64)
        found = 0
        for line in range(size):
            near[found] = line
            found += keys_L[line] <= bound
        if found > num_lines:
            return near[:found]
    return np.arange(size)


@numba.njit(parallel=True, cache=True, nogil=True)
def _best_cells(by_row, by_column, prices_RC, num_cells):  # type: ignore[no-untyped-def]
    """Walk each word's pairs of a row and a column best first, keeping the best cells sorted."""
    row_lines, row_losses, row_keys, row_tails = by_row
    column_lines, column_losses, column_keys, column_tails = by_column
    num_words = len(row_lines)
    num_columns = prices_RC.shape[1]
    cells_NM = np.full((num_words, num_cells), NO_CELL, np.int32)
    losses_NM = np.zeros((num_words, num_cells), row_losses.dtype)
    tails_N = np.empty(num_words)
    for word in numba.prange(num_words):
        totals = np.full(num_cells + 1, np.inf)
        cells = np.full(num_cells + 1, NO_CELL, np.int32)
        losses = np.zeros(num_cells + 1, row_losses.dtype)
        best_row_key, best_column_key = row_keys[word, 0], column_keys[word, 0]
        # No cell outside the candidates costs less than this, nor does one that is walked past.
        limit = min(row_tails[word] + best_column_key, best_row_key + column_tails[word])
        for i in range(row_lines.shape[1]):
            row_key = row_keys[word, i]
            if row_key + best_column_key >= limit:
                break
            row_line, row_loss = np.int64(row_lines[word, i]), row_losses[word, i]
            for j in range(column_lines.shape[1]):
                if row_key + column_keys[word, j] >= limit:
                    break
                column_line = np.int64(column_lines[word, j])
                loss = row_loss + column_losses[word, j]
                total = loss + prices_RC[row_line, column_line]
                if total < limit:
                    place = num_cells
                    while place > 0 and totals[place - 1] > total:
                        totals[place] = totals[place - 1]
                        cells[place] = cells[place - 1]
                        losses[place] = losses[place - 1]
                        place -= 1
                    totals[place] = total
                    cells[place] = row_line * num_columns + column_line
                    losses[place] = loss
                    limit = min(limit, totals[num_cells])
        tails_N[word] = limit
        for place in range(num_cells):
            # A cell found before the limit fell to it or below is not known to be the next best.
            if totals[place] > limit:
                break
            cells_NM[word, place] = cells[place]
            losses_NM[word, place] = losses[place]
    return cells_NM, losses_NM, tails_N


@numba.njit(parallel=True, cache=True, nogil=True)
def _least_by_few_lines(  # type: ignore[no-untyped-def]
    row_loss_NR, column_loss_NC, prices_RC, row_prices_R, column_prices_C
):
    """Search the best row, then all cells that could still be better."""
    num_words, num_columns = column_loss_NC.shape
    least_N = np.full(num_words, np.nan)
    for word in numba.prange(num_words):
        row_loss_R, column_loss_C = row_loss_NR[word], column_loss_NC[word]
        row_keys_R, column_keys_C = row_loss_R + row_prices_R, column_loss_C + column_prices_C
        best_row, best_column = np.argmin(row_keys_R), np.argmin(column_keys_C)
        row_key, column_key = row_keys_R[best_row], column_keys_C[best_column]
        least = row_loss_R[best_row] + column_loss_C[best_column] + prices_RC[best_row, best_column]
        if least > row_key + column_key:
            for j in range(num_columns):
                least = min(least, row_loss_R[best_row] + column_loss_C[j] + prices_RC[best_row, j])
            rows = np.flatnonzero(row_keys_R < least - column_key)
            columns = np.flatnonzero(column_keys_C < least - row_key)
            if len(rows) * len(columns) > MOST_PAIRS:
                continue
            for row in rows:
                for column in columns:
                    if row_keys_R[row] + column_keys_C[column] < least:
                        loss = row_loss_R[row] + column_loss_C[column]
                        least = min(least, loss + prices_RC[row, column])
        least_N[word] = least
    return least_N
