"""The command of `benchmarks/allocation.py`: solvers side by side, as a table and as JSON."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numba

from allocation.errors import AllocationError
from allocation.exchange import bytes_exchanged
from allocation.solvers.auction import LINES_PER_WORD
from benchmarks.gap_picture import draw_gaps
from benchmarks.measuring import in_own_process, machine, versions
from benchmarks.solver_runs import (
    Problem,
    SolverRun,
    describe,
    run_solver,
    write_simulated,
)

SOLVERS = "auction,greedy,half,alternating,exact"
QUICK_VOCAB_SIZE, QUICK_SOLVERS = 1000, f"{SOLVERS},scipy"
RANKS = 1, 2, 4, 8, 16, 32, 64

Figures = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare solvers as the command line says."""
    given = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        statistics = given.statistics
        if statistics is None:
            statistics = Path(folder)
            print(f"simulating the statistics of {given.vocab_size} words", file=sys.stderr)
            in_own_process(
                write_simulated, given.vocab_size, given.hidden_size, given.seed, statistics
            )
        figures = _compare(given, statistics)
    _print_table(figures)
    if given.picture:
        draw_gaps([figures], given.picture)
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/allocation.py",
        description="Compare the solvers of the reallocation: seconds, memory, and gap to the "
        "best bound that any of them proves. The last line of the output is JSON.",
    )
    parser.add_argument("--vocab-size", type=int, default=10_000, help="of the simulated model")
    parser.add_argument("--hidden-size", type=int, default=200, help="of the simulated model")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated model")
    parser.add_argument(
        "--statistics",
        type=Path,
        help="instead: a folder of benchmarks.simulated, or a record of a reallocation",
    )
    parser.add_argument(
        "--solvers",
        help=f"any of {SOLVERS},scipy and auction@PRECISION (default: {SOLVERS})",
    )
    parser.add_argument("--time-budget", type=float, help="seconds for each solver")
    parser.add_argument("--quick", action="store_true", help="a small size, all solvers")
    parser.add_argument("--picture", type=Path, help="PNG of gap against seconds")
    parser.add_argument("--output", type=Path, help="file for the JSON too")
    given = parser.parse_args(arguments)
    if given.quick:
        given.vocab_size = QUICK_VOCAB_SIZE
    given.solvers = (given.solvers or (QUICK_SOLVERS if given.quick else SOLVERS)).split(",")
    return given


def _compare(given: argparse.Namespace, statistics: Path) -> Figures:
    """Run each solver in a process of its own; return all figures."""
    problem = in_own_process(describe, statistics)
    runs: dict[str, SolverRun] = {}
    refused: dict[str, str] = {}
    for spec in given.solvers:
        try:
            runs[spec] = in_own_process(run_solver, spec, statistics, given.time_budget)
        except AllocationError as error:
            refused[spec] = str(error)
        except BrokenProcessPool:
            refused[spec] = "its process was killed, as where memory does not suffice"
    best_bound = max((run.lower_bound for run in runs.values()), default=None)
    return {
        "benchmark": "allocation",
        "statistics": given.statistics.name if given.statistics else "simulated",
        **asdict(problem),
        "best_lower_bound": best_bound,
        "solvers": {
            spec: asdict(run)
            | {
                "gap_percent": _percent(run.objective - run.lower_bound, run.objective),
                "gap_to_best_bound_percent": _percent(run.objective - best_bound, run.objective),
            }
            for spec, run in runs.items()
            if best_bound is not None
        },
        "refused": refused,
        "bytes_exchanged": {
            mode: {str(ranks): _bytes_exchanged(problem, ranks, mode) for ranks in RANKS}
            for mode in ("dense", "sharded")
        },
        "machine": machine(),
        "versions": versions(),
        "settings": {
            "time_budget_seconds": given.time_budget,
            "hidden_size": given.hidden_size,
            "seed": given.seed,
            "candidates_exchanged": LINES_PER_WORD,
            "numba_threads": numba.config.NUMBA_NUM_THREADS,  # type: ignore[attr-defined]
            "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        },
    }


def _percent(gap: float, objective: float) -> float:
    return 100.0 * gap / max(abs(objective), sys.float_info.min)


def _bytes_exchanged(problem: Problem, ranks: int, mode: Any) -> int:
    return bytes_exchanged(
        problem.vocab_size,
        problem.num_rows,
        problem.num_columns,
        # Where losses are the fewer numbers, they are exchanged instead, whatever the width.
        problem.hidden_size or problem.num_rows + problem.num_columns,
        LINES_PER_WORD,
        ranks,
        mode,
    )


def _print_table(figures: Figures) -> None:
    tokens = figures["tokens"]
    print(
        f"{figures['vocab_size']} words in {figures['num_rows']} x {figures['num_columns']} cells, "
        f"{tokens:.0f} tokens, {figures['objective_before'] / tokens:.5f} nats a token before"
    )
    heads = "solver", "seconds", "peak GiB", "nats a token", "own gap %", "gap to best bound %"
    widths = 16, 10, 10, 14, 12, 20
    print("".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    for spec, run in figures["solvers"].items():
        print(
            f"{spec:>16}{run['seconds']:>10.2f}{run['peak_rss_gib']:>10.2f}"
            f"{run['objective'] / tokens:>14.7f}{run['gap_percent']:>12.6f}"
            f"{run['gap_to_best_bound_percent']:>20.6f}"
        )
    for spec, reason in figures["refused"].items():
        print(f"{spec:>16}  refused: {reason}")
    print("GiB handed over by a rank in the exchange:")
    print(f"{'ranks':>16}" + "".join(f"{ranks:>10}" for ranks in RANKS))
    for mode, by_ranks in figures["bytes_exchanged"].items():
        sizes = "".join(f"{size / 2**30:>10.3f}" for size in by_ranks.values())
        print(f"{mode:>16}{sizes}")
