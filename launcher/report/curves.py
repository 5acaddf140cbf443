"""Draw a run's curves over epochs, with its reallocations as vertical lines."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from launcher.report.drawing import (
    AMBER,
    BLUE,
    DARK,
    GREEN,
    GREY,
    RED,
    STYLE,
    new_figure,
    to_png,
)
from launcher.report.run_data import FloatArray, Record, RunData, column, number


def draw_curves(run: RunData) -> dict[str, bytes]:
    """Return the curves of which the run has told something, as PNG by name."""
    pictures: dict[str, bytes] = {}
    with matplotlib.rc_context(STYLE):
        if run.train or run.valid:
            pictures["perplexity"] = to_png(draw_perplexity(run))
            pictures["row_column_loss"] = to_png(draw_row_column_loss(run))
        if run.train:
            pictures["pace"] = to_png(draw_pace(run))
    return pictures


def draw_perplexity(run: RunData) -> Figure:
    """Draw training and validation on one logarithmic axis: perplexity left, nats right."""
    figure = new_figure(4.3)
    axes = figure.add_subplot()
    epochs = column(run.train, "epoch")
    losses = column(run.train, "loss")
    _plot(
        axes, epochs, perplexities(losses), color=BLUE, alpha=0.35, linewidth=0.7, label="training"
    )
    smoothed = perplexities(smooth(losses, column(run.train, "table_version")))
    _plot(axes, epochs, smoothed, color=BLUE, linewidth=1.6, label="training, smoothed")
    _plot(
        axes,
        column(run.valid, "epoch"),
        column(run.valid, "perplexity"),
        color=RED,
        linewidth=1.4,
        marker="o",
        markersize=4,
        label="validation",
    )
    after = column(run.reallocations, "valid_perplexity_after")
    if np.isfinite(after).any():
        axes.plot(
            column(run.reallocations, "epoch"),
            after,
            linestyle="none",
            marker="^",
            markersize=5.5,
            markerfacecolor="white",
            markeredgecolor=RED,
            label="validation right after a reallocation",
        )
    unigram = number(run.start, "unigram_perplexity")
    if np.isfinite(unigram):
        axes.axhline(unigram, color=DARK, linewidth=1, linestyle=":", label="unigram")
    _mark_reallocations(axes, run.reallocations)
    _finish_epochs(axes)
    _scale_perplexity(axes, 100 * number(run.start, "vocab_size"))
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def draw_row_column_loss(run: RunData) -> Figure:
    """Draw how the loss splits over the two half-steps."""
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    epochs, versions = column(run.train, "epoch"), column(run.train, "table_version")
    for part, color in (("row", AMBER), ("column", GREEN)):
        losses = column(run.train, f"{part}_loss")
        _plot(axes, epochs, losses, color=color, alpha=0.35, linewidth=0.7)
        _plot(
            axes,
            epochs,
            smooth(losses, versions),
            color=color,
            linewidth=1.6,
            label=f"{part}, training, smoothed",
        )
        axes.plot(
            column(run.valid, "epoch"),
            column(run.valid, f"{part}_loss"),
            color=color,
            linestyle="none",
            marker="o",
            markersize=4,
            label=f"{part}, validation",
        )
    _mark_reallocations(axes, run.reallocations)
    _finish_epochs(axes)
    axes.set_ylabel("loss [nats per token]")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def draw_pace(run: RunData) -> Figure:
    """Draw learning rate, gradient norm and speed, one below the other."""
    figure = new_figure(4.6)
    panels = figure.subplots(3, 1, sharex=True)
    epochs = column(run.train, "epoch")
    for axes, key, label in zip(
        panels,
        ("learning_rate", "grad_norm", "tokens_per_second"),
        ("learning rate", "gradient norm", "speed [tokens/s]"),
        strict=True,
    ):
        values = column(run.train, key)
        _plot(axes, epochs, values, color=BLUE, linewidth=1)
        if np.isfinite(values).any():
            axes.set_ylim(0, 1.08 * max(np.nanmax(values), 1e-12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.set_ylabel(label)
        axes.margins(x=0.01)
        _mark_reallocations(axes, run.reallocations, numbered=axes is panels[0])
    panels[-1].set_xlabel("epoch")
    figure.align_ylabels(panels)
    return figure


def perplexities(losses: FloatArray) -> FloatArray:
    """Return `exp(loss)`, kept where an axis can still be laid out around it."""
    return np.exp(np.minimum(losses, 200.0))


def smooth(losses: FloatArray, versions: FloatArray) -> FloatArray:
    """Return a centred running mean that never reaches over to another table's losses.

    The window narrows towards a table's first and last record, so that the jump of a
    reallocation stays as high, and where, it was.

    Args:
        losses: as logged, float64 [records]; a NaN is passed over.
        versions: table version of each record, float64 [records].
    """
    positions = np.arange(len(losses))
    is_first = np.ones(len(losses), dtype=bool)
    is_first[1:] = versions[1:] != versions[:-1]
    starts = np.flatnonzero(is_first)
    ends = np.append(starts[1:], len(losses))
    table = np.cumsum(is_first) - 1
    half_width = np.minimum(positions - starts[table], ends[table] - 1 - positions)
    half_width = np.minimum(half_width, min(len(losses) // 60, 200))
    is_told = np.isfinite(losses)
    sums = np.append(0.0, np.cumsum(np.where(is_told, losses, 0.0)))
    nums = np.append(0, np.cumsum(is_told))
    low, high = positions - half_width, positions + half_width + 1
    num_told = nums[high] - nums[low]
    means = (sums[high] - sums[low]) / np.maximum(num_told, 1)
    return np.where(num_told > 0, means, np.nan)


def _plot(axes: Axes, epochs: FloatArray, values: FloatArray, **style: object) -> None:
    """Plot a line that is visible also where it has one point only."""
    if len(values) and np.isfinite(values).any():
        if np.isfinite(values).sum() == 1:
            style = {"marker": "o", "markersize": 4, **style}
        axes.plot(epochs, values, **style)  # type: ignore[arg-type]


def _mark_reallocations(axes: Axes, records: Sequence[Record], numbered: bool = True) -> None:
    """Draw a vertical line for each reallocation, with the version it made where there is room."""
    first, last = axes.get_xlim()
    numbered_last = -np.inf
    for position, record in enumerate(records):
        epoch = number(record, "epoch")
        label = None if position else "reallocation"
        axes.axvline(epoch, color=GREY, linewidth=1, linestyle="--", zorder=1, label=label)
        if numbered and epoch - numbered_last > 0.025 * (last - first):
            numbered_last = epoch
            axes.annotate(
                f"{number(record, 'table_version'):.0f}",
                (epoch, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                color=GREY,
                fontsize=8,
            )


def _finish_epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.margins(x=0.01)


def _scale_perplexity(axes: Axes, ceiling: float) -> None:
    """Make the perplexities logarithmic with plain numbers, and give the nats on the right.

    What lies above the ceiling (a run that diverged) is cut off, so that the rest stays legible.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if low < ceiling < high:
        high = ceiling
    axes.set_ylim(low, high)
    if high / low < 4:
        subdivisions: Sequence[float] = np.arange(1, 10, 0.5).tolist()
    else:
        subdivisions = (1, 2, 5) if high / low < 2000 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subdivisions, numticks=100))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("perplexity")
    nats = axes.twinx()
    nats.set_ylim(np.log(low), np.log(high))
    nats.grid(visible=False)
    nats.set_ylabel("loss [nats per token]")
