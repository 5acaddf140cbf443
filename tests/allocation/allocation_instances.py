"""Reallocation problems for the tests of the solvers."""

import functools
import itertools

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from allocation.costs import CellCosts, DenseCosts


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
    scales = hnp.arrays(
        np.float64, (num_words, 1), elements=st.sampled_from([0.0, 1e-6, 1.0, 1.0, 7.0, 1e6])
    )
    scale = draw(scales)
    return DenseCosts(
        scale * draw(hnp.arrays(np.float64, (num_words, num_rows), elements=losses)),
        scale * draw(hnp.arrays(np.float64, (num_words, num_columns), elements=losses)),
    )


def clustered_costs(num_words: int, num_rows: int, num_columns: int, seed: int = 0) -> CellCosts:
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

    return DenseCosts(side(num_rows), side(num_columns))


def brute_force_objective(costs: CellCosts) -> float:
    """Return the least loss over all tables, each of them looked at."""
    num_cells = costs.num_rows * costs.num_columns
    loss = (costs.row_loss_VR[:, :, None] + costs.column_loss_VC[:, None, :]).reshape(
        costs.num_words, num_cells
    )
    totals = sum(loss[w][cells] for w, cells in enumerate(_placements(costs.num_words, num_cells)))
    return float(np.min(totals))


@functools.cache
def _placements(num_words: int, num_cells: int) -> npt.NDArray[np.int8]:
    """Every way to give the words different cells, [words, ways]."""
    ways = list(itertools.permutations(range(num_cells), num_words))
    return np.array(ways, dtype=np.int8).T.copy()
