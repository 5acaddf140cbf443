"""Runs of the launcher as real processes, and what they leave behind.

A fresh interpreter takes seconds to import torch. The ranks here are forked from one server process
that has imported everything once; each then reads its rank from the environment, joins the others,
and ends by the exit status of `main`, as a process that torchrun started does.
"""

import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load

from launcher.checkpoints import list_checkpoints
from launcher.checkpoints.safe_reader import SafeReader
from launcher.run_dir import RunDirectory
from lightrnn import WordTable

Program = Literal["train", "lightrnn"]
Hook = Callable[[], None]
"""Runs in a rank before the program, to break something in it at the right moment."""

STOPPED = 75
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class Ended:
    """How the processes of a run ended, by rank."""

    statuses: tuple[int, ...]
    outputs: tuple[str, ...]
    errors: tuple[str, ...]

    @property
    def output(self) -> str:
        """Standard output of rank 0."""
        return self.outputs[0]

    def check(self, status: int = 0) -> "Ended":
        """Assert that every rank ended with `status`."""
        assert set(self.statuses) == {status}, f"{self.statuses}\n" + "\n".join(self.errors)
        return self

    def check_one_line(self, *parts: str, status: int = 2) -> str:
        """Assert that every rank ended with `status` and one line that holds `parts`; return it."""
        self.check(status)
        for rank, text in enumerate(self.errors):
            lines = [line for line in text.splitlines() if "Gloo" not in line]
            assert len(lines) == 1, text
            who = f"[rank {rank}] " if rank else ""
            assert lines[0].startswith((f"{who}error: ", f"{who}training failed: ")), text
            for part in parts:
                assert part in lines[0]
        return self.errors[0].strip()


def server() -> ForkServerContext:
    """Return the context whose processes are forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["launcher_imports"])
    with pytest.MonkeyPatch.context() as patch:
        # The server is given no path of ours, and says nothing where it cannot import.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


@dataclass
class Ranks:
    """Processes of one run that are under way."""

    processes: list[ForkServerProcess]
    logs: Path

    def wait(self) -> Ended:
        """Wait for all of them; those that hang are killed, and the test fails."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        hung = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for rank in hung:
            self.processes[rank].kill()
            self.processes[rank].join()
        ended = Ended(
            tuple(process.exitcode or 0 for process in self.processes),
            self._read("stdout"),
            self._read("stderr"),
        )
        assert not hung, f"ranks {hung} hung\n" + "\n".join(ended.errors)
        return ended

    def _read(self, name: str) -> tuple[str, ...]:
        return tuple(
            (self.logs / f"{rank}.{name}").read_text() for rank in range(len(self.processes))
        )


def start(
    program: Program,
    arguments: Sequence[str],
    logs: Path,
    world_size: int | None = None,
    hooks: dict[int, Hook] | None = None,
    with_report: bool = False,
) -> Ranks:
    """Start a program on every rank; alone and without a launcher where `world_size` is None.

    Args:
        program: the training script, or the command.
        arguments: of its command line.
        logs: folder for what the ranks print.
        world_size: number of processes.
        hooks: by rank.
        with_report: whether training writes its report, which takes longer than the training here.
    """
    logs.mkdir(parents=True, exist_ok=True)
    port = str(free_port())
    context = server()
    processes = []
    for rank in range(world_size or 1):
        place = {} if world_size is None else _place(rank, world_size, port)
        hook = (hooks or {}).get(rank)
        process = context.Process(
            target=_run_rank,
            args=(program, list(arguments), place, logs / str(rank), hook, with_report),
        )
        process.start()
        processes.append(process)
    return Ranks(processes, logs)


def run(
    program: Program,
    arguments: Sequence[str],
    logs: Path,
    world_size: int | None = None,
    hooks: dict[int, Hook] | None = None,
    with_report: bool = False,
) -> Ended:
    """Start a program as `start` does and wait until every rank has ended."""
    return start(program, arguments, logs, world_size, hooks, with_report).wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _place(rank: int, world_size: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def _run_rank(
    program: Program,
    arguments: list[str],
    place: dict[str, str],
    log: Path,
    hook: Hook | None,
    with_report: bool,
) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(log.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.environ.update(place, CUDA_VISIBLE_DEVICES="")
    from launcher import cli, train

    if not with_report:
        train.write_report = lambda path: path  # type: ignore[assignment]
    if hook is not None:
        hook()
    sys.exit(train.main(arguments) if program == "train" else cli.main(arguments))


# What a rank may be made to do.


def send_signal_at_step(number: signal.Signals, step: int) -> Hook:
    """Let the rank receive a signal when it begins a step."""
    return partial(_send_signal_at_step, number, step)


def _send_signal_at_step(number: signal.Signals, step: int) -> None:
    from launcher import train

    learning_rate = train.learning_rate

    def signalling(at: int, *arguments: Any) -> float:
        if at == step:
            os.kill(os.getpid(), number)
        return learning_rate(at, *arguments)

    train.learning_rate = signalling


def kill_in_second_save(share: float) -> Hook:
    """Kill the rank after this share of all function calls that its second save makes."""
    return partial(_kill_in_second_save, share)


def _kill_in_second_save(share: float) -> None:
    from launcher.checkpoints import Saver

    write = Saver._write
    calls = [0, 0]
    saves = 0

    def counting(saver: Saver, *arguments: Any) -> None:
        nonlocal saves

        def count(*event: object) -> None:
            calls[saves] += 1
            if saves == 1 and calls[1] >= share * calls[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        try:
            write(saver, *arguments)
        finally:
            sys.setprofile(None)
            saves = 1

    Saver._write = counting  # type: ignore[method-assign]


def let_time_pass_at_step(step: int, minutes: float) -> Hook:
    """Let the rank's clock stand still but for so many minutes that pass at a step."""
    return partial(_let_time_pass_at_step, step, minutes)


def _let_time_pass_at_step(step: int, minutes: float) -> None:
    from launcher import train
    from launcher.checkpoints.intervals import SaveClock

    learning_rate, now = train.learning_rate, 0.0

    def passing(at: int, *arguments: Any) -> float:
        nonlocal now
        now += 60 * minutes if at == step else 0
        return learning_rate(at, *arguments)

    train.learning_rate = passing
    train.SaveClock = lambda every: SaveClock(every, lambda: now)  # type: ignore[assignment,misc]


def send_signal_in_statistics(number: signal.Signals, batch: int) -> Hook:
    """Let the rank receive a signal when it comes to a batch of a reallocation's statistics."""
    return partial(_send_signal_in_statistics, number, batch)


def _send_signal_in_statistics(number: signal.Signals, batch: int) -> None:
    from launcher import train

    all_batches = train.all_batches

    def signalling(*arguments: Any, first: int = 0, **options: Any) -> Any:
        for at, one in enumerate(all_batches(*arguments, first=first, **options), first):
            if at == batch:
                os.kill(os.getpid(), number)
            yield one

    train.all_batches = signalling


def lose_a_number_at_step(*steps: int) -> Hook:
    """Let the rank's loss be no number at some steps."""
    return partial(_lose_a_number_at_step, steps)


def _lose_a_number_at_step(steps: Sequence[int]) -> None:
    from launcher import train
    from lightrnn import LightRNN

    dropout_keys, forward = train.dropout_keys, LightRNN.forward
    now = -1

    def keys(seed: int, at: int, *arguments: Any) -> Tensor:
        nonlocal now
        now = at
        return dropout_keys(seed, at, *arguments)

    def broken(model: LightRNN, *arguments: Any) -> Any:
        losses = forward(model, *arguments)
        return losses._replace(row_nll=losses.row_nll * float("nan")) if now in steps else losses

    train.dropout_keys = keys
    LightRNN.forward = broken  # type: ignore[method-assign]


def fail_to_read_at_step(step: int) -> Hook:
    """Let the rank fail to read the training batch of a step of the first epoch."""
    return partial(_fail_to_read_at_step, step)


def _fail_to_read_at_step(step: int) -> None:
    from data_shards import CorpusError
    from launcher import train

    training_steps = train.training_steps

    def failing(batches: Any, steps: range, device: torch.device) -> Any:
        for at, batch in zip(steps, training_steps(batches, steps, device), strict=True):
            if at == step:
                raise CorpusError(f"the shard of step {step} is gone")
            yield batch

    train.training_steps = failing


def find_no_programs() -> None:
    """Let the rank find no program on its PATH."""
    os.environ["PATH"] = "/nowhere"


def log_opened_shards(path: Path) -> Hook:
    """Let the rank write the path of every shard that it opens, a line each."""
    return partial(_log_opened_shards, path)


def _log_opened_shards(path: Path) -> None:
    from data_shards import corpus

    map_rows = corpus.map_rows

    def logging(shard: Path) -> Any:
        with path.open("a") as file:
            file.write(f"{shard}\n")
        return map_rows(shard)

    corpus.map_rows = logging


def find_all_moves_bad() -> None:
    """Let every table but the one in force be measured as worse by a nat."""
    from launcher.train import Trainer

    measured = Trainer._held_out_loss

    def worse(trainer: Trainer, table: WordTable) -> float:
        return measured(trainer, table) + (table != trainer.state.table)

    Trainer._held_out_loss = worse  # type: ignore[method-assign]


def options(**settings: object) -> list[str]:
    """Return settings as options: `train__epochs=2` becomes `--train.epochs 2`."""
    return [
        part
        for name, value in settings.items()
        for part in (f"--{name.replace('__', '.').replace('run_dir', 'run-dir')}", str(value))
    ]


# What a run leaves behind.


def read_records(run_dir: Path, event: str | None = None) -> list[dict[str, Any]]:
    """Return the records of a run, or those of one event."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if event in (None, record["event"])]


def losses_of(run_dir: Path) -> list[float]:
    """Return the training losses of a run, as often as they were logged."""
    return [record["loss"] for record in read_records(run_dir, "train")]


_TIMES = re.compile(r"seconds|slowest_rank|_per_second|_wait_|bytes|mfu")


def measured(run_dir: Path, *events: str) -> list[dict[str, Any]]:
    """Return the records of these events without times and bytes, which no two runs share."""
    return [
        {name: value for name, value in record.items() if not _TIMES.search(name)}
        for record in read_records(run_dir)
        if record["event"] in events
    ]


def checkpoint_of(run_dir: Path, step: int) -> Path:
    """Return the place of a step's checkpoint."""
    return run_dir / "checkpoints" / f"step-{step:08d}"


def checkpoint_steps(run_dir: Path) -> list[int]:
    """Return the steps of a run's valid checkpoints."""
    return [int(path.name.rpartition("-")[2]) for path in list_checkpoints(RunDirectory(run_dir))]


def read_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint."""
    reader = SafeReader(checkpoint)
    tensors = {
        name: torch.empty(saved.size, dtype=saved.properties.dtype)  # type: ignore[union-attr]
        for name, saved in reader.read_metadata().state_dict_metadata.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no other processes
        load(tensors, storage_reader=SafeReader(checkpoint), no_dist=True)
    return tensors


def assert_same_tensors(one: Path, other: Path) -> None:
    """Assert that two checkpoints hold the same tensors, bit for bit."""
    ones, others = read_tensors(one), read_tensors(other)
    assert ones.keys() == others.keys()
    different = [name for name in ones if not torch.equal(ones[name], others[name])]
    assert not different
