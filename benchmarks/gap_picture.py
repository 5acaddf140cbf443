"""A picture of how near the best table each solver comes against the time it takes.

python -m benchmarks.gap_picture benchmarks/results/allocation-*.json --output gaps.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

LEAST_GAP_PERCENT = 1e-6
"""Smaller gaps, which a logarithmic axis cannot show, are drawn here."""

MARKERS = "osD^vPX*"


def draw_gaps(all_figures: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the solvers of some benchmarks, each as `benchmarks/allocation.py` gives it."""
    solvers = list(dict.fromkeys(name for run in all_figures for name in run["solvers"]))
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, figures in enumerate(all_figures):
        for name, run in figures["solvers"].items():
            axes.scatter(
                run["seconds"],
                max(run["gap_to_best_bound_percent"], LEAST_GAP_PERCENT),
                color=f"C{solvers.index(name)}",
                marker=MARKERS[number % len(MARKERS)],
            )
    for place, name in enumerate(solvers):
        axes.scatter([], [], color=f"C{place}", label=name)
    for number, figures in enumerate(all_figures):
        label = f"{figures['vocab_size']:,} words, {figures['statistics']}"
        axes.scatter([], [], color="grey", marker=MARKERS[number % len(MARKERS)], label=label)
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="gap to the best bound, percent")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Draw the files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON of benchmarks/allocation.py")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    given = parser.parse_args()
    draw_gaps([json.loads(path.read_text()) for path in given.results], given.output)


if __name__ == "__main__":
    main()
