"""Reallocation problems for the tests of the solvers."""

import functools
import itertools
from collections.abc import Callable, Iterator

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from allocation.costs import CellCosts, DenseCosts
from lightrnn.table import WordTable


def silent(line: str) -> None:
    """Take a solver's progress and tell nobody."""


def random_start(costs: CellCosts, seed: int = 0) -> WordTable:
    return WordTable.random(costs.num_words, costs.num_rows, costs.num_columns, seed)


def magnitude(costs: CellCosts) -> float:
    """The largest sum of losses in absolute value, against which rounding is to be seen."""
    return float(sum(abs(loss).max(axis=1).sum() for loss in costs.losses(slice(None))))


@st.composite
def small_costs(draw: st.DrawFn) -> CellCosts:
    """Any table up to 3 x 3: ties, spare cells, words of no count, losses of any sign and scale."""
    num_rows, num_columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    num_words = draw(st.integers(1, num_rows * num_columns))
    losses = draw(
        st.sampled_from(
            [
                st.integers(0, 2).map(float),
                st.integers(-3, 3).map(float),
                st.floats(-1e3, 1e3, allow_subnormal=False),
            ]
        )
    )
    counts = st.sampled_from([0.0, 1e-6, 1.0, 1.0, 7.0, 1e6])
    counts_V = draw(hnp.arrays(np.float64, num_words, elements=counts))
    row_loss, column_loss = (
        counts_V[:, None] * draw(hnp.arrays(np.float64, (num_words, size), elements=losses))
        for size in (num_rows, num_columns)
    )
    return DenseCosts(row_loss, column_loss, counts_V)


def clustered_costs(num_words: int, num_rows: int, num_columns: int, seed: int = 0) -> DenseCosts:
    """Words in clusters that like the same rows and columns, with counts after Zipf's law."""
    random = np.random.default_rng(seed)
    counts = np.round(3 + 10.0 * num_words / (np.arange(num_words) + 3.0))[:, None]
    cluster = random.integers(0, 2 * num_rows, size=num_words)

    def side(num_lines: int) -> npt.NDArray[np.float64]:
        centres = random.normal(size=(2 * num_rows, 16))
        states = centres[cluster] + 0.5 * random.normal(size=(num_words, 16))
        logits = states @ random.normal(size=(16, num_lines)) / 2
        log_total = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return np.asarray(counts * (log_total - logits))

    return DenseCosts(side(num_rows), side(num_columns), counts[:, 0])


SHAPES = [
    (1, 1, 1),
    (1, 3, 4),
    (7, 1, 9),
    (7, 9, 1),
    (9, 1, 9),
    (36, 6, 6),
    (20, 6, 6),
    (5, 8, 9),
    (60, 8, 9),
]
"""Numbers of words, rows and columns: full tables, single words and lines, many spare cells."""

Losses = npt.NDArray[np.float64]
Adversary = Callable[[np.random.Generator, Losses, Losses], tuple[Losses, Losses]]


def _same_cell(_: np.random.Generator, row: Losses, column: Losses) -> tuple[Losses, Losses]:
    return 0 * row + np.arange(row.shape[1]), 0 * column + np.arange(column.shape[1])


def _same_row(_: np.random.Generator, row: Losses, column: Losses) -> tuple[Losses, Losses]:
    return row + 100.0 * (np.arange(row.shape[1]) > 0), column


def _against_each_other(
    _: np.random.Generator, row: Losses, column: Losses
) -> tuple[Losses, Losses]:
    """What a word saves by its row it loses by its column of the same number."""
    size = min(row.shape[1], column.shape[1])
    column = column.copy()
    column[:, :size] = row.max() - row[:, :size]
    return row, column


def _one_heavy_word(_: np.random.Generator, row: Losses, column: Losses) -> tuple[Losses, Losses]:
    weight = np.where(np.arange(len(row)) == len(row) // 2, 1e6, 1.0)[:, None]
    return weight * row, weight * column


def _nearly_tied(_: np.random.Generator, row: Losses, column: Losses) -> tuple[Losses, Losses]:
    return 1.0 + 1e-9 * row, 1.0 + 1e-9 * column


ADVERSARIES: dict[str, Adversary] = {
    "random": lambda _, row, column: (row, column),
    "all zero": lambda _, row, column: (0 * row, 0 * column),
    "tied": lambda _, row, column: (np.floor(2 * row), np.floor(2 * column)),
    "nearly tied": _nearly_tied,
    "all want one cell": _same_cell,
    "all want one row": _same_row,
    "rows against columns": _against_each_other,
    "one heavy word": _one_heavy_word,
    "huge": lambda _, row, column: (1e12 * row, 1e12 * column),
    "tiny": lambda _, row, column: (1e-12 * row, 1e-12 * column),
    "negative": lambda _, row, column: (-row, 5.0 - column),
    "scattered scales": lambda random, row, column: (
        row * 10.0 ** random.integers(-6, 7, size=(len(row), 1)),
        column * 10.0 ** random.integers(-6, 7, size=(len(row), 1)),
    ),
}
"""By name, what makes losses hard to solve out of random ones by row and by column."""


def adversarial_costs(name: str, absent: bool = False, seed: int = 0) -> Iterator[DenseCosts]:
    """Yield the problems of an adversary, one for each of `SHAPES`.

    Args:
        name: one of `ADVERSARIES`.
        absent: every third word never occurs.
        seed: decides what is random.
    """
    for shape in SHAPES:
        num_words, num_rows, num_columns = shape
        random = np.random.default_rng([seed, *shape])
        by_line = [random.exponential(size=(num_words, size)) for size in (num_rows, num_columns)]
        row_loss, column_loss = ADVERSARIES[name](random, *by_line)
        counts_V = random.integers(1, 9, size=num_words)
        if absent:
            counts_V[::3] = 0
        yield DenseCosts(counts_V[:, None] * row_loss, counts_V[:, None] * column_loss, counts_V)


def brute_force_objective(costs: CellCosts) -> float:
    """Return the least loss over all tables, each of them looked at."""
    by_row, by_column = costs.losses(slice(None))
    loss = (by_row[:, :, None] + by_column[:, None, :]).reshape(costs.num_words, costs.num_cells)
    placements = _placements(costs.num_words, costs.num_cells)
    totals = sum(loss[w][cells] for w, cells in enumerate(placements))
    return float(np.min(totals))


@functools.cache
def _placements(num_words: int, num_cells: int) -> npt.NDArray[np.int8]:
    """Every way to give the words different cells, [words, ways]."""
    ways = list(itertools.permutations(range(num_cells), num_words))
    return np.array(ways, dtype=np.int8).T.copy()
