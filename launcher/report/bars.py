"""Draw what each reallocation promised and what came of it."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from launcher.report.drawing import BLUE, GREY, RED, STYLE, new_figure, to_png
from launcher.report.run_data import FloatArray, Record, RunData, column, number

MAX_TICKS = 15
MAX_LABELLED = 6
"""With more reallocations than this the bars stand without their values."""


def draw_reallocations(run: RunData) -> dict[str, bytes]:
    """Return a PNG of the losses before, predicted and right after; nothing without a move."""
    if not run.reallocations:
        return {}
    with matplotlib.rc_context(STYLE):
        return {"reallocations": to_png(_draw_bars(run))}


def _draw_bars(run: RunData) -> Figure:
    records = run.reallocations
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    places = np.arange(len(records))
    for offset, key, label, color in (
        (-0.27, "loss_before", "before", GREY),
        (0.0, "loss_predicted", "predicted, hidden states fixed", BLUE),
        (0.27, "loss_after", "measured right after", RED),
    ):
        bars = axes.bar(places + offset, column(records, key), 0.25, color=color, label=label)
        if len(records) <= MAX_LABELLED:
            axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    bounds = lower_bounds(records)
    if np.isfinite(bounds).any():
        axes.hlines(
            bounds,
            places - 0.125,
            places + 0.125,
            color="black",
            linewidth=1.6,
            label="lower bound of the prediction",
        )
    shown = places[:: max(1, len(places) // MAX_TICKS)]
    axes.set_xticks(shown, [f"{number(records[place], 'table_version'):.0f}" for place in shown])
    axes.set_xlim(-0.6, max(len(records), 2) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("reallocation, by the table version it made")
    axes.set_ylabel("loss [nats per token]")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def lower_bounds(records: Sequence[Record]) -> FloatArray:
    """Return below which loss no table could have brought each prediction, nats per token.

    What the solver minimises may hold more than the loss, such as a bonus for staying, and the
    bound with it; so it is their difference that is taken from the predicted loss.
    """
    distance = column(records, "solver_objective") - column(records, "lower_bound")
    return column(records, "loss_predicted") - distance
