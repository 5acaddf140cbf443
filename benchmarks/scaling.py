"""How training speeds up with processes, and what share of their time is communication.

    python benchmarks/scaling.py --world-sizes 1,2,4
    torchrun --nnodes 4 --nproc-per-node 8 benchmarks/scaling.py --vocab-size 793471 \\
        --hidden-size 1000 --num-layers 2 --lanes-per-rank 64
    python benchmarks/scaling.py --quick

Started by itself, it starts 1..n processes of this machine with torchrun and measures them one
world size after the other, as often as `--repeats` says and by turns. Started by torchrun, `srun`
or MPI it measures the processes there are. Each process has one thread on a CPU, or one GPU. The
work of a process stays the same (`--lanes-per-rank`), or that of all together does
(`--num-lanes`). A step is what `lightrnn train` does, with its engine; every few steps one is
taken without any communication, and the difference is the share of communication that no
computing hides. The last line of the output is JSON.

Legend: B lanes, T words of a lane and step.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.measuring import machine, versions
from benchmarks.simulated import zipf_text
from launcher.bootstrap import find_place
from launcher.engines import make_engine
from launcher.optimization import autocast_for
from launcher.processes import Processes, joined_processes
from launcher.settings import ModelSettings, Settings, TrainSettings
from launcher.setup import make_model
from lightrnn import WordTable, default_shape
from lightrnn.dropout import dropout_keys

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_STEPS = 3
BYTES_OF_GRADIENT = 4
RATE = 1e-3


class ScalingFailure(RuntimeError):
    """The processes of a world size did not end well."""


@dataclass(frozen=True)
class Plan:
    """What each world size trains.

    Attributes:
        vocab_size, hidden_size, num_layers: V; width of vectors and layers; layers.
        lanes_per_rank: B of each process; 0 where `num_lanes` counts.
        num_lanes: B of all processes together; 0 where `lanes_per_rank` counts.
        bptt: T.
        steps: timed in one go.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    lanes_per_rank: int
    num_lanes: int
    bptt: int
    steps: int


@dataclass(frozen=True)
class Measured:
    """One go of one world size, by rank 0.

    Attributes:
        words_per_s: of all processes.
        step_s: wall time of a step.
        communication_share: of a step's time, what goes away where nothing is communicated.
        all_reduce_s: time of the gradient's reduction by itself, with nothing to hide it.
        bytes_per_step: of the gradient, which each process gives and gets.
        parameters: trained numbers.
    """

    words_per_s: float
    step_s: float
    communication_share: float
    all_reduce_s: float
    bytes_per_step: int
    parameters: int


class Steps:
    """The training steps of one process, on text of its own.

    Args:
        plan: what is trained.
        processes: all of them.
    """

    def __init__(self, plan: Plan, processes: Processes) -> None:
        torch.manual_seed(1)
        self.plan, self.processes = plan, processes
        device = processes.device
        settings = Settings(train=TrainSettings())
        self.autocast = autocast_for(settings.train, device)
        width = plan.hidden_size
        sizes = ModelSettings(
            embedding_size=width, hidden_size=width, num_layers=plan.num_layers, dropout=0.0
        )
        shape = default_shape(plan.vocab_size)
        self.model = make_model(sizes, plan.vocab_size, *shape).to(device)
        self.model.set_table(WordTable.random(plan.vocab_size, *shape, 1))
        self.engine = make_engine(settings, self.model, processes)
        self.lanes = plan.lanes_per_rank or plan.num_lanes // processes.world_size
        words = zipf_text(plan.vocab_size, self.lanes * (plan.bptt + 1), processes.rank)
        text = torch.from_numpy(words).view(self.lanes, -1).to(device)
        self.batch = text[:, :-1].contiguous(), text[:, 1:].contiguous()
        self.state = self.model.initial_state(self.lanes)
        self.keys = dropout_keys(1, 0, range(self.lanes), device)

    @property
    def words_per_step(self) -> int:
        """Of all processes."""
        return self.lanes * self.plan.bptt * self.processes.world_size

    def together(self) -> None:
        """Take a step as training does, the gradient averaged over all processes."""
        with self.autocast():
            losses = self.engine.forward(*self.batch, self.state, self.keys)
        self.engine.backward((losses.row_nll + losses.column_nll) / self.words_per_step)
        self.engine.step(RATE)
        self.state = losses.state.detach().float()

    def alone(self) -> None:
        """Take the same step without communication; the processes' parameters drift apart."""
        with self.autocast():
            losses = self.model(*self.batch, self.state, self.keys)
        loss: Tensor = (losses.row_nll + losses.column_nll) / self.words_per_step
        loss.backward()  # type: ignore[no-untyped-call]
        self.engine.step(RATE)
        self.state = losses.state.detach().float()

    def timed(self, step: Any, number: int) -> float:
        """Return the seconds of one of so many steps, all processes having begun together."""
        dist.barrier()
        self._synchronize()
        began = time.perf_counter()
        for _ in range(number):
            step()
        self._synchronize()
        return (time.perf_counter() - began) / number

    def all_reduce(self) -> None:
        """Add up a tensor of the gradient's size over all processes."""
        dist.all_reduce(self.gradient)

    def measure(self) -> Measured:
        """Time some steps of each kind, by turns."""
        for _ in range(WARM_UP_STEPS):
            self.together()
            self.alone()
        self.gradient = torch.zeros(self.model.num_parameters, device=self.processes.device)
        self.all_reduce()
        number = max(1, self.plan.steps // 4)
        together, alone, reducing = [], [], []
        for _ in range(4):
            together.append(self.timed(self.together, number))
            alone.append(self.timed(self.alone, number))
            reducing.append(self.timed(self.all_reduce, number))
        step_s = self._slowest(median(together))
        share = max(0.0, 1 - self._slowest(median(alone)) / step_s)
        return Measured(
            words_per_s=self.words_per_step / step_s,
            step_s=step_s,
            communication_share=share if self.processes.world_size > 1 else 0.0,
            all_reduce_s=self._slowest(median(reducing)),
            bytes_per_step=BYTES_OF_GRADIENT * self.model.num_parameters,
            parameters=self.model.num_parameters,
        )

    def _slowest(self, seconds: float) -> float:
        value = torch.tensor(seconds, dtype=torch.float64, device=self.processes.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value.item()

    def _synchronize(self) -> None:
        if self.processes.device.type == "cuda":
            torch.cuda.synchronize(self.processes.device)


def measure_these(plan: Plan) -> tuple[int, int, Measured]:
    """Measure the processes that this one was started with; return rank, world size, figures."""
    with joined_processes() as processes:
        if processes.device.type == "cpu":
            torch.set_num_threads(1)
        steps = Steps(plan, processes)
        measured = steps.measure()
        steps.engine.close()
        return processes.rank, processes.world_size, measured


def measure_apart(plan: Plan, world_size: int) -> Measured:
    """Start processes of this machine with torchrun and return what they measured.

    Raises:
        ScalingFailure: they did not end well; their last lines are in the message.
    """
    with tempfile.TemporaryDirectory() as name:
        output = Path(name) / "measured.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(world_size), __file__, "--output", str(output)]
        for option, value in asdict(plan).items():
            command += [f"--{option.replace('_', '-')}", str(value)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode:
            raise ScalingFailure(
                f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
            )
        (figures,) = json.loads(output.read_text())["by_world_size"].values()
    return Measured(**{name: figures[name] for name in Measured.__annotations__})


def report_of(plan: Plan, measured: dict[int, list[Measured]]) -> dict[str, Any]:
    """Return the figures of all world sizes, medians over their goes.

    Efficiency is that against the least world size, of words a second and process.
    """
    by_world_size: dict[str, dict[str, float]] = {}
    for world_size, goes in measured.items():
        by_world_size[str(world_size)] = {
            name: median(getattr(one, name) for one in goes) for name in Measured.__annotations__
        }
    least = min(measured)
    base = by_world_size[str(least)]["words_per_s"] / least
    for world_size in measured:
        figures = by_world_size[str(world_size)]
        figures["efficiency"] = figures["words_per_s"] / world_size / base
    return {
        "benchmark": "scaling",
        **asdict(plan),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "by_world_size": by_world_size,
        "machine": machine(),
        "versions": versions(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    given = _parse(arguments)
    plan = Plan(
        given.vocab_size,
        given.hidden_size,
        given.num_layers,
        0 if given.num_lanes else given.lanes_per_rank,
        given.num_lanes,
        given.bptt,
        given.steps,
    )
    if find_place().start != "alone":
        rank, world_size, figures = measure_these(plan)
        if rank:
            return
        measured = {world_size: [figures]}
    else:
        measured = {world_size: [] for world_size in given.world_sizes}
        for _ in range(given.repeats):
            for world_size, goes in measured.items():
                goes.append(measure_apart(plan, world_size))
    report = report_of(plan, measured)
    print_table(report)
    if given.output:
        given.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def print_table(report: dict[str, Any]) -> None:
    """Print a report for people."""
    print("processes   words/s  efficiency  communication  reduction alone  MB a step")
    for world_size, one in report["by_world_size"].items():
        print(
            f"{world_size:>9}  {one['words_per_s']:8,.0f}  {one['efficiency']:9.1%}  "
            f"{one['communication_share']:13.1%}  {1e3 * one['all_reduce_s']:12.2f} ms  "
            f"{one['bytes_per_step'] / 1e6:9.2f}"
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/scaling.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--world-sizes", type=_numbers, default=[1, 2], help="comma-separated")
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--hidden-size", type=int, default=200)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--lanes-per-rank", type=int, default=32, help="of each process")
    parser.add_argument("--num-lanes", type=int, default=0, help="of all processes, instead")
    parser.add_argument("--bptt", type=int, default=35)
    parser.add_argument("--steps", type=int, default=40, help="timed in one go")
    parser.add_argument("--repeats", type=int, default=3, help="goes of each world size")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.vocab_size, given.hidden_size, given.steps, given.repeats = 900, 16, 4, 1
    return given


def _numbers(text: str) -> list[int]:
    numbers = [int(one) for one in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected numbers of processes from 1 on")
    return sorted(numbers)


if __name__ == "__main__":
    main()
