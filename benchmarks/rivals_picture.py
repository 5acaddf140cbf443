"""A picture of LightRNN and its rivals against the size of the vocabulary.

python -m benchmarks.rivals_picture benchmarks/results/rivals-*.json --output docs/rivals.png
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

PANELS = {
    "words_per_s": "words a second",
    "peak_memory_gib": "peak memory, GiB",
    "parameters": "parameters",
    "checkpoint_mb": "checkpoint, MB",
    "reallocation_s": "reallocation, seconds",
}


def draw_rivals(all_figures: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw some runs of `benchmarks/rivals.py`, one for each size of the vocabulary.

    Where a model did not fit, its estimated memory is drawn hollow.
    """
    runs = sorted(all_figures, key=lambda run: run["vocab_size"])
    names = list(dict.fromkeys(name for run in runs for name in run["models"]))
    figure, all_axes = plt.subplots(1, len(PANELS), figsize=(20, 4), layout="constrained")
    for axes, (figure_name, label) in zip(all_axes, PANELS.items(), strict=True):
        for place, name in enumerate(names):
            points = [
                (run["vocab_size"], one[figure_name])
                for run in runs
                if (one := run["models"].get(name, {})).get(figure_name) is not None
            ]
            axes.plot(
                *zip(*points, strict=True) if points else ([], []),
                "o-",
                color=f"C{place}",
                label=name,
            )
            if figure_name == "peak_memory_gib":
                _draw_estimates(axes, runs, name, f"C{place}")
        axes.set(xscale="log", yscale="log", xlabel="words in the vocabulary", ylabel=label)
        axes.grid(alpha=0.3)
    all_axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_estimates(axes: Any, runs: Sequence[dict[str, Any]], name: str, color: str) -> None:
    estimates = [
        (run["vocab_size"], one["estimated_gib"])
        for run in runs
        if "not_run" in (one := run["models"].get(name, {})) and "estimated_gib" in one
    ]
    if estimates:
        axes.plot(*zip(*estimates, strict=True), "o", color=color, fillstyle="none")


def main() -> None:
    """Draw the files that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON of benchmarks/rivals.py")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    given = parser.parse_args()
    draw_rivals([json.loads(path.read_text()) for path in given.results], given.output)


if __name__ == "__main__":
    main()
