"""What all pictures of a report share: colours, size, and the way to PNG.

Everything is drawn on objects of its own, so that a report leaves no state in matplotlib.
"""

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, RED, GREEN, AMBER = "#3b6fb6", "#d1495b", "#2a9d6f", "#d98e04"
GREY, DARK = "#8a8f98", "#40454d"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.8,
    "xtick.color": DARK,
    "ytick.color": DARK,
    "legend.frameon": False,
    "text.usetex": False,
}
WIDTH_INCHES = 8.4
DOTS_PER_INCH = 150


def to_png(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def new_figure(height_inches: float) -> Figure:
    """Return an empty figure of the report's width."""
    return Figure((WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH, layout="constrained")
