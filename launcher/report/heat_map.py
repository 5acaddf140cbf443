"""Draw the word table as a heat map of how often each cell's word is read.

Legend: V words, R rows, C columns.
"""

from typing import Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import EngFormatter, PercentFormatter

from launcher.report.drawing import GREY, STYLE, new_figure, to_png
from launcher.report.run_data import FloatArray
from launcher.report.words import Vocabulary, running_words_by_line
from lightrnn.table import WordTable

SPARE_COLOR = "#f6d9c6"


def draw_table(table: WordTable, vocabulary: Vocabulary) -> bytes:
    """Return a PNG of the counts of all R x C cells, with each row's and column's share beside."""
    counts_RC = np.zeros((table.num_rows, table.num_columns))
    # A word without an occurrence is still a word: it gets the lightest colour, not a spare one.
    counts_RC[table.row_of_word, table.column_of_word] = np.maximum(vocabulary.counts, 1)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure = new_figure(7.2)
        grid = figure.add_gridspec(2, 2, width_ratios=(6, 1), height_ratios=(1, 6))
        cells = figure.add_subplot(grid[1, 0])
        image = cells.imshow(
            np.ma.masked_equal(counts_RC, 0),
            norm=LogNorm(1, max(float(counts_RC.max()), 2.0)),
            cmap=matplotlib.colormaps["YlGnBu"].with_extremes(bad=SPARE_COLOR),
            aspect="auto",
        )
        cells.set_xlabel("column")
        cells.set_ylabel("row")
        beside = figure.add_subplot(grid[1, 1], sharey=cells)
        _draw_shares(beside, running_words_by_line(table, vocabulary, "row"), "horizontal")
        beside.tick_params(labelleft=False)
        beside.xaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
        beside.set_xlabel("share of tokens")
        above = figure.add_subplot(grid[0, 0], sharex=cells)
        _draw_shares(above, running_words_by_line(table, vocabulary, "column"), "vertical")
        above.tick_params(labelbottom=False)
        above.yaxis.set_major_formatter(PercentFormatter(1, decimals=None, symbol=" %"))
        above.set_ylabel("share of\ntokens")
        figure.colorbar(
            image,
            ax=[cells, beside],
            location="bottom",
            shrink=0.6,
            format=EngFormatter(sep=""),
            label="occurrences of the cell's word",
        )
        return to_png(figure)


def _draw_shares(
    axes: Axes, running_words: FloatArray, orientation: Literal["horizontal", "vertical"]
) -> None:
    """Draw each row's or column's share of all running words."""
    shares = running_words / max(float(running_words.sum()), 1.0)
    edges = np.arange(len(shares) + 1) - 0.5
    axes.stairs(shares, edges, orientation=orientation, fill=True, color=GREY)
