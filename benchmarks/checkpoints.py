"""How long training waits for a checkpoint, written in its way or beside it.

    python benchmarks/checkpoints.py --vocab-size 1000000 --hidden-size 1024 --ranks 2
    python benchmarks/checkpoints.py --quick

Ranks are processes of this machine that talk over gloo, and train on words drawn by chance. The
last line of the output is JSON.
"""

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import torch.multiprocessing as mp

from benchmarks.measuring import machine, versions
from launcher.checkpoints import Saver, list_checkpoints, take_snapshot
from launcher.engines import DDPEngine
from launcher.processes import Processes, joined_processes
from launcher.run_dir import RunDirectory
from launcher.settings import CheckpointSettings, TrainSettings
from launcher.state import TrainingState
from lightrnn import LightRNN, ModelShape, WordTable, default_shape
from lightrnn.dropout import dropout_keys

Mode = Literal["sync", "async"]
MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """What is trained and saved.

    Attributes:
        vocab_size, hidden_size, lanes, bptt: of the model, and of a global batch.
        ranks: processes.
        saves: checkpoints of each mode.
        steps: training steps between two of them.
    """

    vocab_size: int
    hidden_size: int
    lanes: int
    bptt: int
    ranks: int
    saves: int
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What a mode costs; medians over the checkpoints, seconds on rank 0.

    Attributes:
        wait_seconds: how long training stands still for a checkpoint.
        durable_seconds: from the same moment until it is valid and on the disk.
        step_seconds: of a training step while nothing is written.
        step_seconds_beside: of the first step after a checkpoint was begun.
    """

    wait_seconds: float
    durable_seconds: float
    step_seconds: float
    step_seconds_beside: float


def run_rank(rank: int, plan: Plan, port: int, folder: Path) -> None:
    """Train and save in both modes; rank 0 writes the figures."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(plan.ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // plan.ranks))
    with joined_processes() as processes:
        state = first_state(plan, processes)
        figures: dict[str, Any] = {}
        for mode in get_args(Mode):
            run = RunDirectory(folder / mode)
            figures[mode] = asdict(measure(plan, mode, state, run, processes))
        if rank == 0:
            (checkpoint,) = list_checkpoints(run)
            files = (path for path in checkpoint.rglob("*") if path.is_file())
            figures["checkpoint_mib"] = sum(path.stat().st_size for path in files) / MIB
            figures["parameters"] = state.model.num_parameters
            (folder / "figures.json").write_text(json.dumps(figures))
        state.engine.close()


def first_state(plan: Plan, processes: Processes) -> TrainingState:
    """Return a state with a model of the plan's size."""
    torch.manual_seed(0)
    rows, columns = default_shape(plan.vocab_size)
    shape = ModelShape(rows, columns, plan.hidden_size, plan.hidden_size)
    model = LightRNN(shape, plan.vocab_size).to(processes.device)
    engine = DDPEngine(model, TrainSettings(), processes.world_size)
    rank, size = processes.rank, processes.world_size
    lanes = range(rank * plan.lanes // size, (rank + 1) * plan.lanes // size)
    table = WordTable.random(plan.vocab_size, rows, columns, seed=0)
    return TrainingState(model, engine, table, lanes)


def measure(
    plan: Plan, mode: Mode, state: TrainingState, run: RunDirectory, processes: Processes
) -> Outcome:
    """Train and save as often as the plan says."""
    waits, durations, usual, beside = [], [], [], []
    settings = CheckpointSettings(mode=mode, keep=1)
    group = processes.new_group(settings.timeout_minutes)
    with Saver(run, settings, group, processes.device) as saver:
        for _ in range(plan.saves):
            usual += [take_step(plan, state, processes) for _ in range(plan.steps)]
            snapshot = take_snapshot(state, loader={}, fixed={})
            began = time.perf_counter()
            saver.save(snapshot)
            waits.append(time.perf_counter() - began)
            beside.append(take_step(plan, state, processes))
            saver.wait()
            step_seconds = beside[-1] if mode == "sync" else 0.0
            durations.append(time.perf_counter() - began - step_seconds)
    medians = map(statistics.median, (waits, durations, usual, beside))
    return Outcome(*medians)


def take_step(plan: Plan, state: TrainingState, processes: Processes) -> float:
    """Train a step; return how long it took."""
    began = time.perf_counter()
    random = torch.Generator().manual_seed(state.step)
    words = torch.randint(plan.vocab_size, (len(state.lanes), plan.bptt + 1), generator=random)
    words = words.int().to(processes.device)
    keys = dropout_keys(0, state.step, state.lanes, processes.device)
    losses = state.engine.forward(words[:, :-1], words[:, 1:], state.lane_state, keys)
    state.engine.backward((losses.row_nll + losses.column_nll) / (plan.lanes * plan.bptt))
    state.engine.step(1e-3)
    state.lane_state = losses.state.detach().float()
    state.step += 1
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    plan, given = _parse(arguments)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        mp.start_processes(run_rank, (plan, port, Path(name)), plan.ranks, start_method="spawn")
        measured = json.loads((Path(name) / "figures.json").read_text())
    figures = {
        "benchmark": "checkpoints",
        **asdict(plan),
        **measured,
        "machine": machine(),
        "versions": versions(),
    }
    print(
        f"{plan.vocab_size} words, {figures['parameters']} parameters, {plan.ranks} ranks: "
        f"{figures['checkpoint_mib']:.1f} MiB a checkpoint"
    )
    for mode in get_args(Mode):
        one = figures[mode]
        print(
            f"{mode:<5} training waits {one['wait_seconds']:.3f} s, on the disk after "
            f"{one['durable_seconds']:.3f} s; a step takes {one['step_seconds']:.3f} s, and "
            f"{one['step_seconds_beside']:.3f} s right after"
        )
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def _parse(arguments: Sequence[str] | None) -> tuple[Plan, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="benchmarks/checkpoints.py", description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=1_000_000)
    parser.add_argument("--hidden-size", type=int, default=1024)
    parser.add_argument("--lanes", type=int, default=64)
    parser.add_argument("--bptt", type=int, default=8)
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--saves", type=int, default=5, help="checkpoints of each mode")
    parser.add_argument("--steps", type=int, default=3, help="between two checkpoints")
    parser.add_argument("--folder", type=Path, help="where they are written (default: temporary)")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.vocab_size, given.hidden_size, given.lanes, given.saves = 10_000, 128, 16, 3
    plan = Plan(
        given.vocab_size,
        given.hidden_size,
        given.lanes,
        given.bptt,
        given.ranks,
        given.saves,
        given.steps,
    )
    return plan, given


if __name__ == "__main__":
    main()
