"""Better tables step by step: small exact assignments, one part of the table after the other.

Legend: V words, R rows, C columns.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from allocation.costs import CellCosts, FloatArray, LossArray
from allocation.solvers.protocol import Deadline, Solution, better_solution
from allocation.solvers.transport import cheap_prices
from lightrnn.table import WordTable

WORDS_PER_BAND = 512
"""Cells whose words are assigned jointly: a few rows or columns, two at least."""

MIN_RELATIVE_GAIN = 1e-12
"""Below this share of a part's loss a gain is rounding, and its words stay."""

MAX_SWEEPS_OF_LINES = 30

MAX_SLOW_SWEEPS = 4
"""Sweeps in a row with little gain before the end: bands fall otherwise in the next one."""

IntArray = npt.NDArray[np.int32]


def solve_alternating(
    costs: CellCosts,
    start: WordTable,
    on_progress: Callable[[str], None],
    *,
    time_budget_seconds: float | None = None,
    tolerance: float = 2e-3,
    max_sweeps: int = 60,
    seed: int = 0,
) -> Solution:
    """Improve a table by exact assignments of its parts until little is gained.

    First line by line: within each row its words are assigned to its columns, then within each
    column its words to its rows, and again. That is fast and stops in a local optimum. Then band
    by band: the words of a few rows, taken by chance, are assigned to all cells of those rows
    jointly; next those of a few columns, and so on. Spare cells take part, and the words of a part
    that cannot gain stay where they are.

    Args:
        costs: what each word costs in each cell.
        start: the table in force; never left for a worse one.
        on_progress: called with one line after each sweep.
        time_budget_seconds: what was assigned until then is kept, in the middle of a sweep too.
        tolerance: a sweep is slow when it gains less than this share of the gap; a slow sweep over
            lines ends those, `MAX_SLOW_SWEEPS` in a row over bands end all.
        max_sweeps: sweeps over all bands at most; each is over all rows or all columns.
        seed: decides which rows and columns come together in a band.

    Returns:
        The improved table, with the prices of `cheap_prices`.

    Raises:
        AllocationError: the start does not fit the costs.
    """
    began = time.perf_counter()
    deadline = Deadline(began, time_budget_seconds)
    costs.check_table(start)
    best = better_solution(costs, start, start, cheap_prices(costs), "alternating", began)
    parts = _Parts(costs, start, deadline)
    random = np.random.default_rng(seed)

    def swept(what: str) -> float:
        """Take the sweep's table if it is better, report, return the gain over the distance."""
        nonlocal best
        table = parts.table()
        objective = costs.objective(table)
        gain = (best.objective - objective) / max(best.gap, np.finfo(np.float64).tiny)
        if gain > 0:
            best = replace(best, table=table, objective=objective)
        on_progress(f"{what}: objective {best.objective:.8g}, gap {best.gap_percent:.3g} %")
        return gain

    for sweep in range(1, MAX_SWEEPS_OF_LINES + 1):
        parts.assign_lines()
        if swept(f"rows and columns, sweep {sweep}") <= tolerance or deadline.passed:
            break
    slow_sweeps = 0
    for sweep in range(1, max_sweeps + 1):
        if slow_sweeps == MAX_SLOW_SWEEPS or deadline.passed:
            break
        over_rows = sweep % 2 == 1
        parts.assign_bands(over_rows, random)
        gain = swept(f"bands of {'rows' if over_rows else 'columns'}, sweep {sweep}")
        slow_sweeps = slow_sweeps + 1 if gain <= tolerance else 0
    return replace(best, seconds=time.perf_counter() - began)


class _Parts:
    """A table in the making, and the assignments of its parts, until a deadline."""

    def __init__(self, costs: CellCosts, start: WordTable, deadline: Deadline) -> None:
        self.costs, self.deadline = costs, deadline
        self.row_of_word: IntArray = start.row_of_word.copy()
        self.column_of_word: IntArray = start.column_of_word.copy()

    def table(self) -> WordTable:
        return WordTable(
            self.row_of_word, self.column_of_word, self.costs.num_rows, self.costs.num_columns
        )

    def assign_lines(self) -> None:
        """Assign each row's words to its columns, then each column's words to its rows."""
        for words in self._groups(self.row_of_word, self.costs.num_rows):
            loss = _without_constants(self.costs.losses(words)[1])
            _reassign(loss, self.column_of_word, words)
        for words in self._groups(self.column_of_word, self.costs.num_columns):
            loss = _without_constants(self.costs.losses(words)[0])
            _reassign(loss, self.row_of_word, words)

    def assign_bands(self, over_rows: bool, random: np.random.Generator) -> None:
        """Deal all rows (or columns) into bands, and assign the words of each band to its cells."""
        costs = self.costs
        num_lines, line_length, line_of_word = (
            (costs.num_rows, costs.num_columns, self.row_of_word)
            if over_rows
            else (costs.num_columns, costs.num_rows, self.column_of_word)
        )
        lines_per_band = max(2, WORDS_PER_BAND // line_length)
        dealt = random.permutation(num_lines)
        band_of_line = np.empty(num_lines, dtype=np.int32)
        band_of_line[dealt] = np.arange(num_lines) // lines_per_band
        num_bands = -(-num_lines // lines_per_band)
        for band, words in enumerate(self._groups(band_of_line[line_of_word], num_bands)):
            lines = np.flatnonzero(band_of_line == band)
            rows = lines if over_rows else np.arange(costs.num_rows)
            columns = np.arange(costs.num_columns) if over_rows else lines
            self._assign_block(words, rows, columns)

    def _groups(self, group_of_word: IntArray, num_groups: int) -> Iterator[npt.NDArray[np.intp]]:
        """Yield the words of each group in ascending order, as grouped at the first call."""
        words = np.argsort(group_of_word, kind="stable")
        ends = np.cumsum(np.bincount(group_of_word, minlength=num_groups))
        for group in np.split(words, ends[:-1]):
            if self.deadline.passed:
                return
            yield group

    def _assign_block(
        self, words: npt.NDArray[np.intp], rows: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
    ) -> None:
        """Assign the words of a block of rows by columns to its cells, all others staying."""
        row_loss, column_loss = self.costs.losses(words)
        row_loss = _without_constants(row_loss[:, rows])
        column_loss = _without_constants(column_loss[:, columns])
        loss = (row_loss[:, :, None] + column_loss[:, None, :]).reshape(len(words), -1)
        # Both lists are ascending, so a word's cell in the block is found by bisection.
        cell_of_word = np.zeros(self.costs.num_words, dtype=np.int32)
        cell_of_word[words] = np.searchsorted(rows, self.row_of_word[words]) * len(columns)
        cell_of_word[words] += np.searchsorted(columns, self.column_of_word[words])
        _reassign(loss, cell_of_word, words)
        self.row_of_word[words] = rows[cell_of_word[words] // len(columns)]
        self.column_of_word[words] = columns[cell_of_word[words] % len(columns)]


def _reassign(loss: LossArray, place_of_word: IntArray, words: npt.NDArray[np.intp]) -> None:
    """Write the best places of some words into `place_of_word` [V], if they gain by it.

    Args:
        loss: loss of these words in each place, without constants, [words, places].
        place_of_word: place of each word of the table, of which only these are read and written.
        words: ids of these words.
    """
    every = np.arange(len(words))
    before = float(loss[every, place_of_word[words]].sum())
    _, places = linear_sum_assignment(loss)
    if before - float(loss[every, places].sum()) > MIN_RELATIVE_GAIN * before:
        place_of_word[words] = places


def _without_constants(loss: FloatArray) -> LossArray:
    """Return the losses above each word's least, which keeps the digits that decide."""
    return np.asarray(loss - loss.min(axis=1, keepdims=True), dtype=np.float64)
