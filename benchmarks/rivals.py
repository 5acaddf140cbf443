"""Speed and memory of training: LightRNN beside networks with a vector for every word.

    python benchmarks/rivals.py --vocab-size 793471
    python benchmarks/rivals.py --vocab-size 10000 --bptt 35
    python benchmarks/rivals.py --quick

Text by Zipf's law, recurrent layers, optimizer and precision are the same for all; only how the
next word is predicted differs. Each model trains in a process of its own, by turns with LightRNN,
so that other work on the machine hits both alike; figures are medians. What would need more than
`--memory-gib` is not run, and its need is estimated. `full` and `tied` (input vectors are output
vectors) have a softmax over all words, `adaptive` is PyTorch's adaptive softmax, `sampled` trains
on 8,192 drawn words and `fused`, for GPUs, never keeps all logits (`pip install liger-kernel`).
The last line of the output is JSON.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks.measuring import GIB, free_memory_gib, machine, versions
from benchmarks.rival_models import RIVALS, RivalError
from benchmarks.rival_runs import (
    LIGHTRNN,
    Apart,
    Name,
    Outcome,
    Plan,
    Reallocation,
    contest,
    estimated_gib,
    size_of,
)
from launcher.train import WRONG_INPUT

SHARE_OF_FREE_MEMORY = 0.8
TOKENS_PER_WORD = 1
LEAST_TOKENS = 20_000


def measure(
    plan: Plan,
    names: Sequence[Name],
    *,
    memory_gib: float,
    repeats: int,
    seconds: float,
    reallocation_seconds: float,
) -> dict[str, Any]:
    """Return the figures of each model by name.

    Args:
        plan: what is trained.
        names: LightRNN's and those of its rivals.
        memory_gib: what no model may exceed.
        repeats, seconds: see `contest`.
        reallocation_seconds: for the solver of LightRNN's reallocation; 0 for no reallocation.

    Raises:
        RivalError: a model failed.
    """
    left_out = {name: why for name in names if (why := _obstacle(name, plan, memory_gib))}
    fitting = [name for name in names if name != LIGHTRNN and name not in left_out]
    statistics_gib = plan.vocab_size * (2 * plan.hidden_size + 2) * 8 / GIB
    with Apart(LIGHTRNN, plan) as own:
        outcomes, failures = contest(own, fitting, plan, repeats, seconds)
        reallocation = None
        if reallocation_seconds and statistics_gib <= memory_gib / 2:
            tokens = max(LEAST_TOKENS, TOKENS_PER_WORD * plan.vocab_size)
            reallocation = own.ask("reallocate", tokens, memory_gib / 2, reallocation_seconds)
    figures: dict[str, Any] = {name: _figures(one) for name, one in outcomes.items()}
    figures[LIGHTRNN] |= _reallocation_figures(reallocation, statistics_gib)
    figures |= {name: {"not_run": why} for name, why in failures.items()}
    return figures | {name: why for name, why in left_out.items() if name != LIGHTRNN}


def _obstacle(name: Name, plan: Plan, memory_gib: float) -> dict[str, Any] | None:
    """Return why a model cannot be run, and what is known of it anyway; None if it can."""
    try:
        need, size = estimated_gib(name, plan), size_of(name, plan)
    except RivalError as error:
        return {"not_run": str(error)}
    if need <= memory_gib:
        return None
    why = f"needs about {need:.1f} GiB, allowed are {memory_gib:.1f}"
    return {**asdict(size), "estimated_gib": need, "not_run": why}


def _figures(outcome: Outcome) -> dict[str, Any]:
    figures = {
        **outcome.usual._asdict(),
        "words_per_s_of_bursts": [speed.words_per_s for speed in outcome.speeds],
        "peak_memory_gib": outcome.peak_gib,
        **asdict(outcome.size),
    }
    if outcome.own_speeds:
        faster = outcome.lightrnn_times_faster
        figures["lightrnn_times_faster"] = faster.words_per_s
        figures["lightrnn_times_faster_by_cpu_time"] = faster.words_per_cpu_s
    return figures


def _reallocation_figures(
    reallocation: Reallocation | None, statistics_gib: float
) -> dict[str, Any]:
    if reallocation is None:
        return {
            "reallocation_s": None,
            "reallocation_not_run": f"not asked for, or its {statistics_gib:.1f} GiB of statistics "
            "are too many here; see benchmarks/reallocation.py",
        }
    return {
        "reallocation_s": reallocation.total_seconds,
        "reallocation": asdict(reallocation),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    given = _parse(arguments)
    # Threads that wait let go of their cores, which other work may have.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    plan = Plan(
        vocab_size=given.vocab_size,
        hidden_size=given.hidden_size,
        num_layers=given.num_layers,
        num_lanes=given.num_lanes,
        bptt=given.bptt,
        dropout=given.dropout,
        threads=given.threads,
        device=given.device,
        precision=given.precision,
    )
    try:
        figures = measure(
            plan,
            given.models,
            memory_gib=given.memory_gib,
            repeats=given.repeats,
            seconds=given.seconds,
            reallocation_seconds=given.reallocation_seconds,
        )
    except RivalError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    report = {
        "benchmark": "rivals",
        **asdict(plan),
        "repeats": given.repeats,
        "memory_gib": given.memory_gib,
        "models": figures,
        "machine": machine(),
        "versions": versions(),
    }
    print_table(report)
    if given.output:
        given.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    return 0


def print_table(report: dict[str, Any]) -> None:
    """Print what `measure` returned, for people."""
    print(
        f"V = {report['vocab_size']:,}, {report['num_layers']} x {report['hidden_size']}, "
        f"{report['num_lanes']} lanes x {report['bptt']} words, {report['device']}"
    )
    print("                   LightRNN is x faster")
    print("model     words/s  by clock  by CPU time  peak GiB   parameters  checkpoint MB")
    for name, one in report["models"].items():
        print(f"{name:8} {_speed(one)} {_size(one)}  {one.get('not_run', '')}")
    own = report["models"][LIGHTRNN]
    if own["reallocation_s"] is not None:
        detail = own["reallocation"]
        parts = ", ".join(f"{name} {time:.1f} s" for name, time in detail["seconds"].items())
        print(
            f"a reallocation: {own['reallocation_s']:.1f} s ({parts}; {detail['tokens']:,} tokens, "
            f"at most {detail['gap_percent']:.4f} % above the best table)"
        )


def _speed(one: dict[str, Any]) -> str:
    if "not_run" in one:
        return f"{'-':>8}  {'-':>8}  {'-':>11}  {'-':>8}"
    comparison = f"{'':8}  {'':11}"
    if "lightrnn_times_faster" in one:
        by_clock, by_cpu = one["lightrnn_times_faster"], one["lightrnn_times_faster_by_cpu_time"]
        comparison = f"{by_clock:8.1f}  {by_cpu:11.1f}"
    return f"{one['words_per_s']:8,.0f}  {comparison}  {one['peak_memory_gib']:8.2f}"


def _size(one: dict[str, Any]) -> str:
    if "parameters" not in one:
        return f"{'-':>12}  {'-':>13}"
    return f"{one['parameters']:12,}  {one['checkpoint_mb']:13,.1f}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        prog="benchmarks/rivals.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--hidden-size", type=int, default=256, help="of vectors and layers")
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--num-lanes", type=int, default=32)
    parser.add_argument("--bptt", type=int, default=12, help="words a lane and step")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--models", type=_names, help="comma-separated; LightRNN always is one")
    parser.add_argument("--memory-gib", type=float, help="most for a model (default: 0.8 of free)")
    parser.add_argument("--repeats", type=int, default=5, help="bursts of steps of each model")
    parser.add_argument("--seconds", type=float, default=3.0, help="about how long a burst takes")
    parser.add_argument(
        "--reallocation-seconds", type=float, default=600.0, help="for its solver; 0 for none"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if has_gpu else "cpu")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not has_gpu:
        parser.error("--device cuda: no GPU was found, expected one; use --device cpu")
    if given.quick:
        given.vocab_size, given.hidden_size, given.repeats, given.seconds = 2000, 32, 1, 0.1
    if given.models is None:
        given.models = [LIGHTRNN, *(one for one in RIVALS if one != "fused" or has_gpu)]
    if given.memory_gib is None:
        given.memory_gib = SHARE_OF_FREE_MEMORY * free_memory_gib(given.device)
    return given


def _names(text: str) -> list[Name]:
    unknown = [one for one in text.split(",") if one not in (LIGHTRNN, *RIVALS)]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"found {unknown[0]!r}, expected some of {', '.join((LIGHTRNN, *RIVALS))}"
        )
    return [LIGHTRNN, *(one for one in RIVALS if one in text.split(","))]


if __name__ == "__main__":
    sys.exit(main())
