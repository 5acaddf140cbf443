"""All that one GPU can tell of LightRNN's speed, in under 8 minutes; results go to a file.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --quick

Measured are the ceiling of bfloat16 matrix products; words a second by lanes, with the share of
that ceiling; the rivals, peak memory, and a reallocation; evaluation and the statistics pass;
NCCL with a single process; losses in bfloat16 beside float32. Each part has processes of its own.
A part for which less than 45 seconds are left is left out, one that fails does not end the others;
both are named. The JSON is written
anew after each part to benchmarks/results/gpu-NAME.json, and is the last line of the output.
Without a GPU, `--quick` runs everything on the CPU.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks import evaluation, rivals, scaling
from benchmarks.measuring import free_memory_gib, in_own_process, machine, versions
from benchmarks.rival_models import RIVALS
from benchmarks.rival_runs import LIGHTRNN, Contestant, Name, Plan
from launcher.train import DONE, WRONG_INPUT
from launcher.watch import FAILED
from lightrnn import default_shape

RESULTS = Path(__file__).resolve().parent / "results"
MINUTES = 8.0
PART_SECONDS = 45.0
SOLVER_SECONDS = 90.0
SECONDS_OF_BURST = 1.5
LANES = 64, 256, 1024
STEPS_OF_PRECISION = 50
TOKENS_OF_EPOCH = 799_000_000
"""One Billion Words."""

FULL_SIZE = Plan(
    vocab_size=793_471,
    hidden_size=1000,
    num_layers=2,
    num_lanes=128,
    bptt=35,
    dropout=0.0,
    threads=1,
    device="cuda",
    precision="auto",
)
SMALL_SIZE = replace(FULL_SIZE, vocab_size=500, hidden_size=16, num_layers=1, num_lanes=8, bptt=5)

Part = Callable[[], dict[str, Any]]


def ceiling(device: str, size: int) -> dict[str, float]:
    """Return the most floating-point operations a second of bfloat16 matrix products, 1e12."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for go in range(6):
        _synchronize(device)
        began = time.perf_counter()
        for _ in range(10):
            left @ right
        _synchronize(device)
        if go:  # the first one warms up
            best = max(best, 10 * 2 * size**3 / (time.perf_counter() - began))
    return {"bf16_tflops": best / 1e12}


def flops_per_word(plan: Plan) -> float:
    """Return the operations of the matrix products that training takes for a word.

    Two half-steps of all layers and two softmaxes; the backward pass takes twice the forward one.
    """
    width = plan.hidden_size
    layers = 2 * plan.num_layers * 2 * (2 * width) * (4 * width)
    heads = 2 * width * sum(default_shape(plan.vocab_size))
    return 3.0 * (layers + heads)


def by_lanes(plan: Plan, lanes: Sequence[int], tflops: float) -> dict[str, Any]:
    """Return speed, share of the ceiling and peak memory of LightRNN by number of lanes."""
    figures = {}
    for num_lanes in lanes:
        contestant = Contestant(LIGHTRNN, replace(plan, num_lanes=num_lanes))
        contestant.warm_up(SECONDS_OF_BURST)
        speed = max(contestant.burst().words_per_s for _ in range(3))
        figures[str(num_lanes)] = {
            "words_per_s": speed,
            "share_of_ceiling": speed * flops_per_word(plan) / (tflops * 1e12),
            "peak_memory_gib": contestant.peak_gib(),
        }
        del contestant
        if plan.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return {"flops_per_word": flops_per_word(plan), "by_lanes": figures}


def precisions(plan: Plan, steps: int) -> dict[str, Any]:
    """Return the losses of the same steps in float32 and bfloat16, and how far they differ."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        contestant = Contestant(LIGHTRNN, replace(plan, precision=precision))
        losses[precision] = torch.stack([contestant.step() for _ in range(steps)]).tolist()
    pairs = zip(losses["float32"], losses["bfloat16"], strict=True)
    return {
        "largest_relative_difference": max(abs(two - one) / one for one, two in pairs),
        "last_losses": {name: values[-1] for name, values in losses.items()},
    }


def communication(plan: Plan) -> dict[str, Any]:
    """Return a step of the training engine, and the gradient's reduction, with one process."""
    sizes = plan.vocab_size, plan.hidden_size, plan.num_layers, plan.num_lanes, 0, plan.bptt, 20
    _, world_size, measured = scaling.measure_these(scaling.Plan(*sizes))
    backend = "nccl" if plan.device == "cuda" else "gloo"
    return {"backend": backend, "world_size": world_size, **asdict(measured)}


def share_of_epoch(figures: dict[str, Any]) -> dict[str, float]:
    """Return what a reallocation costs beside an epoch of One Billion Words, all of it read.

    The statistics pass is that of `evaluation`, so that it is one at full speed.
    """
    lightrnn = figures["rivals"][LIGHTRNN]
    rest = lightrnn["reallocation"]["seconds"]
    pass_s = TOKENS_OF_EPOCH / figures["evaluation"]["words_per_s"]["statistics"]
    epoch_s = TOKENS_OF_EPOCH / lightrnn["words_per_s"]
    placing_s = rest["exchange"] + rest["solve"]
    return {
        "epoch_s": epoch_s,
        "statistics_s_of_all_tokens": pass_s,
        "exchange_and_solve_s": placing_s,
        "share_with_all_tokens": (pass_s + placing_s) / epoch_s,
        "share_with_a_tenth_of_the_tokens": (pass_s / 10 + placing_s) / epoch_s,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; return the exit status."""
    given = _parse(arguments)
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not given.quick:
        print("error: no GPU was found, expected one; use --quick to try it", file=sys.stderr)
        return WRONG_INPUT
    plan = SMALL_SIZE if given.quick else FULL_SIZE
    plan = plan if on_gpu else replace(plan, device="cpu")
    output = given.output or RESULTS / f"gpu-{_device_name(on_gpu)}.json"
    figures: dict[str, Any] = {
        "benchmark": "gpu",
        "plan": asdict(plan),
        "machine": machine(),
        "versions": versions(),
        "left_out": [],
        "failed": {},
    }
    deadline = time.monotonic() + 60 * given.minutes
    for name, part in parts(plan, figures, quick=given.quick).items():
        if time.monotonic() + PART_SECONDS > deadline:
            figures["left_out"].append(name)
            continue
        began = time.monotonic()
        print(f"measuring {name}", file=sys.stderr, flush=True)
        try:
            figures[name] = part()
        except Exception as error:  # what the other parts tell is worth having
            figures["failed"][name] = f"{type(error).__name__}: {error}"
        print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        output.write_text(json.dumps(figures, indent=1) + "\n")
    print_tables(figures)
    print(json.dumps(figures))
    return FAILED if figures["failed"] else DONE


def parts(plan: Plan, figures: dict[str, Any], *, quick: bool) -> dict[str, Part]:
    """Return what is measured, in order; later parts use the figures of earlier ones."""
    lanes = LANES[:1] if quick else LANES
    repeats, batches = (1, 1) if quick else (3, 8)
    names: list[Name] = [LIGHTRNN, "tied"] if quick else [LIGHTRNN, *RIVALS]

    def beside_rivals() -> dict[str, Any]:
        return rivals.measure(
            plan,
            names,
            memory_gib=rivals.SHARE_OF_FREE_MEMORY * free_memory_gib(plan.device),
            repeats=repeats,
            seconds=0.1 if quick else SECONDS_OF_BURST,
            reallocation_seconds=SOLVER_SECONDS,
        )

    return {
        "ceiling": lambda: in_own_process(ceiling, plan.device, 64 if quick else 8192),
        "lightrnn": lambda: in_own_process(
            by_lanes, plan, lanes, figures["ceiling"]["bf16_tflops"]
        ),
        "evaluation": lambda: in_own_process(evaluation.measure, plan, repeats, batches),
        "precision": lambda: in_own_process(precisions, plan, 3 if quick else STEPS_OF_PRECISION),
        "communication": lambda: in_own_process(communication, plan),
        "rivals": beside_rivals,
        "reallocation": lambda: share_of_epoch(figures),
    }


def print_tables(figures: dict[str, Any]) -> None:
    """Print what was measured, for people."""
    if "lightrnn" in figures:
        print(f"ceiling: {figures['ceiling']['bf16_tflops']:.0f} TFLOP/s of bfloat16")
        print("lanes      words/s  of the ceiling  peak GiB")
        for lanes, one in figures["lightrnn"]["by_lanes"].items():
            print(
                f"{lanes:>5} {one['words_per_s']:12,.0f}  {one['share_of_ceiling']:14.1%}  "
                f"{one['peak_memory_gib']:8.2f}"
            )
    if "rivals" in figures:
        rivals.print_table(figures["plan"] | {"models": figures["rivals"]})
    for name in ("evaluation", "precision", "communication", "reallocation"):
        if name in figures:
            print(f"{name}: {json.dumps(figures[name])}")
    if figures["left_out"]:
        print(f"left out for want of time: {', '.join(figures['left_out'])}")
    for name, error in figures["failed"].items():
        print(f"{name} failed: {error}")


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _device_name(on_gpu: bool) -> str:
    name = torch.cuda.get_device_name() if on_gpu else "none"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all parts together")
    parser.add_argument("--quick", action="store_true", help="a small size, on the CPU too")
    parser.add_argument("--output", type=Path, help="file for the JSON, instead of the usual one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
