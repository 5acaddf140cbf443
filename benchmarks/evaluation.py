"""Evaluation and the statistics pass of a reallocation beside the training step.

    python benchmarks/evaluation.py --vocab-size 793471 --hidden-size 256
    python benchmarks/evaluation.py --quick

All read the same text with the same network. A pass is at forward speed where it takes what the
network's forward pass takes; training takes the backward pass and the update besides. The share of
`index_add_`, by which the statistics add up words, is that of the operations' own time in the
profiler. The last line of the output is JSON.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch.profiler import ProfilerActivity, profile

from allocation.statistics import WordStatistics
from benchmarks.measuring import in_own_process, machine, versions
from benchmarks.rival_runs import LIGHTRNN, Contestant, Plan
from lightrnn import LightRNN, sum_losses


def measure(plan: Plan, repeats: int, batches: int) -> dict[str, Any]:
    """Return words a second of each kind of pass, and the share of `index_add_`.

    Args:
        plan: what is trained.
        repeats: goes of each kind, by turns.
        batches: of each go.
    """
    contestant = Contestant(LIGHTRNN, plan)
    model, device = contestant.model, contestant.device
    assert isinstance(model, LightRNN)
    text = contestant.batches_of_text(batches)

    def train() -> None:
        for _ in range(batches):
            contestant.step()

    @torch.no_grad()
    def forward() -> None:
        state = contestant.state
        with contestant.autocast():
            for inputs_BT, targets_BT in text:
                state = model(inputs_BT, targets_BT, state).state

    def evaluate() -> None:
        with contestant.autocast():
            sum_losses(model, text)

    statistics = WordStatistics(model)

    @torch.no_grad()
    def add_up() -> None:
        state = contestant.state
        with contestant.autocast():
            for inputs_BT, targets_BT in text:
                for_row, for_column, state = model.hidden_states(inputs_BT, targets_BT, state)
                statistics.add(model, targets_BT, (for_row, for_column))

    kinds = {"train": train, "forward": forward, "evaluate": evaluate, "statistics": add_up}
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    for go in range(repeats + 1):
        for name, run in kinds.items():
            seconds = _timed(run, device)
            if go:  # the first one warms up
                speeds[name].append(batches * plan.words_per_step / seconds)
    words_per_s = {name: median(values) for name, values in speeds.items()}
    return {
        "words_per_s": words_per_s,
        "times_training": {
            name: median(other / own for other, own in zip(values, speeds["train"], strict=True))
            for name, values in speeds.items()
        },
        "times_forward": {
            name: median(other / own for other, own in zip(values, speeds["forward"], strict=True))
            for name, values in speeds.items()
        },
        "index_add_share": _share_of_adding_up(add_up, device),
    }


def _timed(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _share_of_adding_up(run: Callable[[], None], device: torch.device) -> float:
    """Return the share of `index_add_` in the operations' own time."""
    is_gpu = device.type == "cuda"
    with profile(
        activities=[ProfilerActivity.CUDA if is_gpu else ProfilerActivity.CPU]
    ) as profiler:
        run()
    own = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    times = {event.key: getattr(event, own) for event in profiler.key_averages()}
    adding = sum(
        seconds for name, seconds in times.items() if "index_add" in name or "scatter_add" in name
    )
    share: float = adding / max(sum(times.values()), 1e-9)
    return share


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    given = _parse(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    plan = Plan(
        vocab_size=given.vocab_size,
        hidden_size=given.hidden_size,
        num_layers=given.num_layers,
        num_lanes=given.num_lanes,
        bptt=given.bptt,
        dropout=0.0,
        threads=given.threads,
        device="cuda" if torch.cuda.is_available() else "cpu",
        precision="auto",
    )
    report = {
        "benchmark": "evaluation",
        **asdict(plan),
        **in_own_process(measure, plan, given.repeats, given.batches),
        "machine": machine(),
        "versions": versions(),
    }
    print("pass          words/s  x training  x forward")
    for name, speed in report["words_per_s"].items():
        training, forward = report["times_training"][name], report["times_forward"][name]
        print(f"{name:10} {speed:10,.0f}  {training:10.2f}  {forward:9.2f}")
    print(f"index_add_ takes {report['index_add_share']:.1%} of the statistics pass")
    if given.output:
        given.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/evaluation.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--num-lanes", type=int, default=32)
    parser.add_argument("--bptt", type=int, default=35)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5, help="goes of each kind")
    parser.add_argument("--batches", type=int, default=8, help="of each go")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.vocab_size, given.hidden_size, given.repeats, given.batches = 2000, 32, 1, 2
    return given


if __name__ == "__main__":
    main()
