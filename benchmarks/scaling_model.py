"""What many GPUs would make of a step and of a reallocation: a model on paper, not a measurement.

    python benchmarks/scaling_model.py
    python benchmarks/scaling_model.py --measured benchmarks/results/gpu-NAME.json

One process computes a step in the time that was measured, or assumed where no GPU was at hand. Its
gradient is added up by rings, first within hosts, then between them, while the backward pass, two
thirds of the step, goes on; only what is left over costs time. In a reallocation the ranks share
out the statistics pass and the exchange; the solver runs on one of them. The last line of the
output is JSON.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WORLD_SIZES = 1, 4, 32, 256
WANTED_EFFICIENCY = 0.9
WANTED_SHARE = 0.05
BACKWARD_SHARE = 2 / 3
BYTES_OF_GRADIENT = 4
BYTES_OF_SUM = 8


@dataclass(frozen=True)
class Machine:
    """What computes and what connects.

    Attributes:
        words_per_s: that one GPU trains.
        statistics_words_per_s: that one GPU reads in the statistics pass.
        solve_s: of the solver on rank 0.
        gpus_per_host: that a faster link connects.
        host_gb_per_s: of that link, a GPU and direction, in units of 1e9 bytes.
        network_gb_per_s: between hosts, a GPU and direction.
        cpu_gb_per_s: of a host's memory-to-memory messages in the exchange, a rank.
        message_us: to start one message.
    """

    words_per_s: float
    statistics_words_per_s: float
    solve_s: float
    gpus_per_host: int
    host_gb_per_s: float
    network_gb_per_s: float
    cpu_gb_per_s: float
    message_us: float


@dataclass(frozen=True)
class Run:
    """What is trained.

    Attributes:
        vocab_size, hidden_size, num_layers: V; width of vectors and layers; layers.
        words_per_step: of one GPU.
        tokens: of an epoch.
        statistics_tokens: that a reallocation reads, `allocation.tokens`.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    words_per_step: int
    tokens: float
    statistics_tokens: float

    @property
    def parameters(self) -> int:
        """Of LSTM layers, and of vectors and biases of a square table."""
        width, side = self.hidden_size, math.isqrt(self.vocab_size - 1) + 1
        return self.num_layers * (8 * width + 8) * width + 2 * side * (2 * width + 1)


def all_reduce_seconds(num_bytes: float, world_size: int, machine: Machine) -> float:
    """Return the time of rings within hosts and between them, with nothing to hide it."""
    within = min(world_size, machine.gpus_per_host)
    between = math.ceil(world_size / machine.gpus_per_host)
    seconds = 0.0
    # Each GPU of a host owns a part of the sum, and its own ring between the hosts.
    for size, share, link in (
        (within, 1.0, machine.host_gb_per_s),
        (between, 1.0 / within, machine.network_gb_per_s),
    ):
        seconds += 2 * (size - 1) / size * share * num_bytes / (link * 1e9)
        seconds += 2 * (size - 1) * machine.message_us * 1e-6
    return seconds


def step_seconds(run: Run, world_size: int, machine: Machine) -> float:
    """Return the time of a step: what the backward pass does not hide of the reduction is added."""
    computing = run.words_per_step / machine.words_per_s
    reducing = all_reduce_seconds(BYTES_OF_GRADIENT * run.parameters, world_size, machine)
    return computing + max(0.0, reducing - BACKWARD_SHARE * computing)


def efficiency(run: Run, world_size: int, machine: Machine, *, overlap: bool = True) -> float:
    """Return the share of its time that a GPU computes, with or without any overlap."""
    computing = run.words_per_step / machine.words_per_s
    reducing = all_reduce_seconds(BYTES_OF_GRADIENT * run.parameters, world_size, machine)
    if overlap:
        return computing / step_seconds(run, world_size, machine)
    return computing / (computing + reducing)


def least_words(run: Run, world_size: int, machine: Machine, *, overlap: bool = True) -> int:
    """Return the words a step and GPU that keep the wanted efficiency, with or without overlap."""
    reducing = all_reduce_seconds(BYTES_OF_GRADIENT * run.parameters, world_size, machine)
    hidden = BACKWARD_SHARE if overlap else 0.0
    computing = reducing / (1 / WANTED_EFFICIENCY - 1 + hidden)
    return math.ceil(computing * machine.words_per_s)


def reallocation_seconds(run: Run, world_size: int, machine: Machine) -> dict[str, float]:
    """Return the time of each step of a reallocation with the sharded exchange."""
    widths = min(2 * run.hidden_size + 2, 2 * math.ceil(math.sqrt(run.vocab_size)))
    num_bytes = BYTES_OF_SUM * run.vocab_size * widths
    exchanged = (world_size - 1) / world_size * num_bytes
    return {
        "statistics": run.statistics_tokens / world_size / machine.statistics_words_per_s,
        "exchange": exchanged / (machine.cpu_gb_per_s * 1e9),
        "solve": machine.solve_s,
    }


def at_world_size(run: Run, world_size: int, machine: Machine) -> dict[str, float]:
    """Return all figures of one number of GPUs."""
    step = step_seconds(run, world_size, machine)
    epoch = run.tokens / (run.words_per_step * world_size) * step
    reallocation = reallocation_seconds(run, world_size, machine)
    reducing = all_reduce_seconds(BYTES_OF_GRADIENT * run.parameters, world_size, machine)
    total = sum(reallocation.values())
    return {
        "words_per_s": run.words_per_step * world_size / step,
        "reduction_ms": 1e3 * reducing,
        "efficiency": efficiency(run, world_size, machine),
        "efficiency_without_overlap": efficiency(run, world_size, machine, overlap=False),
        "least_words_per_step": least_words(run, world_size, machine),
        "least_words_per_step_without_overlap": least_words(
            run, world_size, machine, overlap=False
        ),
        "epoch_s": epoch,
        **{f"{name}_s": seconds for name, seconds in reallocation.items()},
        "reallocation_share_of_epoch": total / epoch,
        "epochs_between_reallocations": total / epoch / WANTED_SHARE,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the model of what the command line says."""
    given = _parse(arguments)
    sizes = Run(
        given.vocab_size,
        given.hidden_size,
        given.num_layers,
        given.words_per_step,
        given.tokens,
        given.statistics_tokens,
    )
    machine = Machine(
        given.words_per_s,
        given.statistics_words_per_s or given.words_per_s / (1 - BACKWARD_SHARE),
        given.solve_s,
        given.gpus_per_host,
        given.host_gb_per_s,
        given.network_gb_per_s,
        given.cpu_gb_per_s,
        given.message_us,
    )
    table = {str(size): at_world_size(sizes, size, machine) for size in WORLD_SIZES}
    print_tables(sizes, table, measured=given.measured is not None)
    print(
        json.dumps(
            {
                "benchmark": "scaling_model",
                "run": asdict(sizes),
                "machine_model": asdict(machine),
                "measured": str(given.measured) if given.measured else None,
                "by_world_size": table,
            }
        )
    )


def print_tables(run: Run, table: dict[str, dict[str, float]], *, measured: bool) -> None:
    """Print the model for people, as Markdown."""
    print(
        f"{run.vocab_size:,} words, {run.num_layers} x {run.hidden_size}: {run.parameters:,} "
        f"parameters, {BYTES_OF_GRADIENT * run.parameters / 1e6:.1f} MB of gradient; "
        f"{run.words_per_step:,} words a step and GPU; "
        f"the speed of one GPU is {'measured' if measured else 'assumed'}\n"
    )
    print("| GPUs | words/s | reduction | efficiency | words a step for 90 % | without overlap | |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size, one in table.items():
        print(
            f"| {size} | {one['words_per_s']:,.0f} | {one['reduction_ms']:.2f} ms | "
            f"{one['efficiency']:.1%} | {one['least_words_per_step']:,} | "
            f"{one['efficiency_without_overlap']:.1%} | "
            f"{one['least_words_per_step_without_overlap']:,} |"
        )
    print("\n| GPUs | epoch | statistics | exchange | solve | of an epoch | epochs between, 5 % |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size, one in table.items():
        print(
            f"| {size} | {one['epoch_s']:,.1f} s | {one['statistics_s']:.1f} s | "
            f"{one['exchange_s']:.1f} s | {one['solve_s']:.0f} s | "
            f"{one['reallocation_share_of_epoch']:.0%} | "
            f"{one['epochs_between_reallocations']:.1f} |"
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/scaling_model.py",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--measured", type=Path, help="JSON of benchmarks/gpu.py for one GPU")
    parser.add_argument("--vocab-size", type=int, default=793_471)
    parser.add_argument("--hidden-size", type=int, default=1000)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--words-per-step", type=int, default=128 * 64, help="of one GPU")
    parser.add_argument("--tokens", type=float, default=799e6, help="of an epoch")
    parser.add_argument("--statistics-tokens", type=float, default=50e6, help="a reallocation")
    parser.add_argument("--words-per-s", type=float, default=1e6, help="of one GPU")
    parser.add_argument("--statistics-words-per-s", type=float, help="default: 3 x training")
    parser.add_argument("--solve-s", type=float, default=250.0, help="of the solver")
    parser.add_argument("--gpus-per-host", type=int, default=8)
    parser.add_argument("--host-gb-per-s", type=float, default=300.0, help="a GPU, within hosts")
    parser.add_argument("--network-gb-per-s", type=float, default=40.0, help="a GPU, between hosts")
    parser.add_argument("--cpu-gb-per-s", type=float, default=2.0, help="a rank, in the exchange")
    parser.add_argument("--message-us", type=float, default=15.0, help="to start a message")
    given = parser.parse_args(arguments)
    if given.measured:
        _take_over(json.loads(given.measured.read_text()), given)
    return given


def _take_over(measured: dict[str, Any], given: argparse.Namespace) -> None:
    """Put what a GPU was measured to do in the place of what is assumed."""
    for name in ("vocab_size", "hidden_size", "num_layers"):
        setattr(given, name, measured["plan"][name])
    given.words_per_step = measured["plan"]["num_lanes"] * measured["plan"]["bptt"]
    given.words_per_s = measured["rivals"]["lightrnn"]["words_per_s"]
    given.statistics_words_per_s = measured["evaluation"]["words_per_s"]["statistics"]
    reallocation = measured["rivals"]["lightrnn"].get("reallocation")
    if reallocation:
        given.solve_s = reallocation["seconds"]["solve"]


if __name__ == "__main__":
    main()
