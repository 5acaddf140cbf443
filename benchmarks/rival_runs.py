"""Training steps of LightRNN and of its rivals: each in a process of its own, timed by turns.

Legend: B lanes, T words of a step, N = B * T, K candidates, V words, R rows, C columns.
"""

import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from allocation import Method, Storage, TorchCommunicator, TrustRegion, reallocate
from benchmarks.measuring import GIB, peak_rss_gib
from benchmarks.rival_models import Rival, RivalError, RivalName, RivalShape
from benchmarks.simulated import zipf_text
from launcher.optimization import autocast_for, make_optimizer
from launcher.processes import joined_processes
from launcher.settings import ModelSettings, TrainSettings
from launcher.setup import make_model
from lightrnn import LightRNN, WordTable, default_shape
from lightrnn.dropout import dropout_keys

Name = Literal["lightrnn"] | RivalName
LIGHTRNN: Name = "lightrnn"

PROCESS_GIB = 0.45
"""What a process takes that has loaded the libraries."""

BATCHES_OF_TEXT = 16


@dataclass(frozen=True)
class Plan:
    """What is trained, the same for all but the prediction of the next word.

    Attributes:
        vocab_size, hidden_size, num_layers: V; width of vectors and layers; layers.
        num_lanes, bptt: B and T.
        dropout: as `model.dropout`.
        threads: of each process, on CPUs.
        device: `cpu` or `cuda`.
        precision: as `train.precision`.
        seed: of text and parameters.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_lanes: int
    bptt: int
    dropout: float
    threads: int
    device: str
    precision: Literal["auto", "float32", "bfloat16"]
    seed: int = 1

    @property
    def words_per_step(self) -> int:
        """N."""
        return self.num_lanes * self.bptt


@dataclass(frozen=True)
class Size:
    """What a model weighs.

    Attributes:
        parameters: trained numbers.
        checkpoint_mb: parameters, moments of Adam, and the word table, in units of 1e6 bytes.
    """

    parameters: int
    checkpoint_mb: float


class Speed(NamedTuple):
    """Of a burst of steps: words by wall time, and by the processor time of all its threads.

    The second is what other work on the machine disturbs least; of GPUs it says nothing.
    """

    words_per_s: float
    words_per_cpu_s: float


@dataclass(frozen=True)
class Reallocation:
    """What a reallocation took.

    Attributes:
        seconds: by step.
        tokens: of the text that was read for the statistics.
        gap_percent: how far from the best the table may be.
        peak_gib: most memory of the process, on the CPU.
    """

    seconds: dict[str, float]
    tokens: int
    gap_percent: float
    peak_gib: float

    @property
    def total_seconds(self) -> float:
        """From the first batch of the statistics to the new table."""
        return sum(self.seconds.values())


def build(name: Name, plan: Plan) -> LightRNN | Rival:
    """Return a model on torch's current device; the words of LightRNN have no cells yet."""
    if name != LIGHTRNN:
        width = plan.hidden_size
        return Rival(RivalShape(name, plan.vocab_size, width, width, plan.num_layers), plan.dropout)
    settings = ModelSettings(
        embedding_size=plan.hidden_size,
        hidden_size=plan.hidden_size,
        num_layers=plan.num_layers,
        dropout=plan.dropout,
    )
    return make_model(settings, plan.vocab_size, *default_shape(plan.vocab_size))


def size_of(name: Name, plan: Plan) -> Size:
    """Return what a model weighs, without making it.

    Raises:
        RivalError: a package is missing.
    """
    with torch.device("meta"):
        parameters = build(name, plan).num_parameters
    table_bytes = 8 * plan.vocab_size if name == LIGHTRNN else 0
    return Size(parameters, (3 * 4 * parameters + table_bytes) / 1e6)


def estimated_gib(name: Name, plan: Plan) -> float:
    """Return about how much memory training takes at its peak: parameters, Adam, logits."""
    shape = default_shape(plan.vocab_size)
    num_logits: dict[Name, int] = {
        LIGHTRNN: sum(shape),
        "full": plan.vocab_size,
        "tied": plan.vocab_size,
        "adaptive": plan.vocab_size // 50,
        "sampled": RivalShape.num_candidates,
        "fused": 0,
    }
    # A parameter has a gradient and two moments; logits, their softmax and its gradient live at
    # the same time.
    num_bytes = 4 * 4 * size_of(name, plan).parameters
    num_bytes += 3 * 4 * plan.words_per_step * num_logits[name]
    return num_bytes / GIB + (PROCESS_GIB if plan.device == "cpu" else 0.0)


class Contestant:
    """One model with its optimizer, in the process that has nothing else to do."""

    def __init__(self, name: Name, plan: Plan) -> None:
        torch.set_num_threads(plan.threads)
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.device = torch.device(plan.device)
        settings = TrainSettings(precision=plan.precision)
        self.autocast = autocast_for(settings, self.device)
        self.clip_norm = settings.clip_norm
        self.model = build(name, plan).to(self.device)
        if isinstance(self.model, LightRNN):
            self.table = WordTable.random(
                plan.vocab_size, *default_shape(plan.vocab_size), plan.seed
            )
            self.model.set_table(self.table)
        self.optimizer = make_optimizer(self.model.parameters(), settings)
        self.state = self.model.initial_state(plan.num_lanes)
        self.batches = cycle(self.batches_of_text(BATCHES_OF_TEXT))
        self.steps = 0
        self.steps_per_burst = 1

    def batches_of_text(self, number: int) -> list[tuple[Tensor, Tensor]]:
        """Return inputs and targets, int32 [B, T] each, of a text of so many steps."""
        plan = self.plan
        words = zipf_text(plan.vocab_size, plan.num_lanes * (number * plan.bptt + 1), plan.seed)
        lanes = torch.from_numpy(words).view(plan.num_lanes, -1).to(self.device)
        starts = range(0, number * plan.bptt, plan.bptt)
        return [
            (lanes[:, start : start + plan.bptt], lanes[:, start + 1 : start + plan.bptt + 1])
            for start in starts
        ]

    def step(self) -> Tensor:
        """Take one training step; return the loss, nats a word."""
        inputs, targets = next(self.batches)
        keys = dropout_keys(self.plan.seed, self.steps, range(self.plan.num_lanes), self.device)
        with self.autocast():
            *nll, state = self.model(inputs, targets, self.state, keys)
        loss: Tensor = sum(nll) / self.plan.words_per_step
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state = state.detach().float()
        self.steps += 1
        return loss.detach()

    def warm_up(self, seconds: float) -> float:
        """Take the first steps, and then as many a burst as last for `seconds`.

        Returns:
            Seconds a step.
        """
        for _ in range(2):
            self.step()
        one = self.plan.words_per_step / self.burst().words_per_s
        self.steps_per_burst = max(1, round(seconds / one))
        return one

    def burst(self) -> Speed:
        """Take some steps as fast as may be.

        Raises:
            RivalError: training went wrong, so that its speed means nothing.
        """
        self._synchronize()
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(self.steps_per_burst):
            loss = self.step()
        self._synchronize()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        if not loss.isfinite():
            raise RivalError("the loss is not finite")
        words = self.steps_per_burst * self.plan.words_per_step
        return Speed(words / seconds, words / max(cpu_seconds, 1e-9))

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def size(self) -> Size:
        """Return what the model weighs, from what there is to save."""
        states = (self.model.state_dict(), *self.optimizer.state_dict()["state"].values())
        tensors = (one for state in states for one in state.values() if isinstance(one, Tensor))
        # Tied vectors have two names.
        by_place = {one.data_ptr(): one.numel() * one.element_size() for one in tensors}
        table_bytes = 8 * self.plan.vocab_size if isinstance(self.model, LightRNN) else 0
        return Size(self.model.num_parameters, (sum(by_place.values()) + table_bytes) / 1e6)

    def peak_gib(self) -> float:
        """Return the most memory that was in use at a time, on the device that computes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / GIB
        return peak_rss_gib()

    def reallocate(
        self, tokens: int, memory_gib: float, time_budget_seconds: float
    ) -> Reallocation:
        """Find a new table for LightRNN as it is; it is not taken.

        Args:
            tokens: about how many make the statistics.
            memory_gib: for the statistics; the rest goes to files.
            time_budget_seconds: for the solver.
        """
        assert isinstance(self.model, LightRNN)
        batches = self.batches_of_text(math.ceil(tokens / self.plan.words_per_step))
        with (
            joined_processes() as processes,
            tempfile.TemporaryDirectory() as folder,
            self.autocast(),
        ):
            _, report = reallocate(
                self.model,
                self.table,
                batches,
                communicator=TorchCommunicator(processes.new_group(minutes=600)),
                method=Method(
                    trust_region=TrustRegion(moves="all"),
                    time_budget_seconds=time_budget_seconds,
                    storage=Storage(memory_gib, Path(folder)),
                ),
            )
        seconds = report.seconds
        return Reallocation(
            {
                "statistics": seconds.statistics,
                "exchange": seconds.exchange,
                "solve": seconds.solve,
            },
            report.tokens,
            report.gap_percent,
            peak_rss_gib(),
        )


class Apart:
    """A contestant in a process of its own; a context, at whose end the process ends.

    Args:
        name: which one.
        plan: what is trained.
    """

    def __init__(self, name: Name, plan: Plan) -> None:
        self.name = name
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, name, plan), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._process.join()

    def ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the contestant and return what it returns.

        Raises:
            RivalError: it failed, or its process was killed.
        """
        self._connection.send((method, arguments))
        try:
            result = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RivalError(
                f"the process of {self.name} ended with {self._process.exitcode}, as for too much "
                "memory; lower --memory-gib or leave it out of --models"
            ) from None
        if isinstance(result, Exception):
            raise RivalError(f"{self.name}: {result}") from result
        return result


def _serve(connection: Connection, name: Name, plan: Plan) -> None:
    """Do what is asked until nobody asks any more."""
    contestant: Contestant | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            contestant = contestant or Contestant(name, plan)
            result = getattr(contestant, method)(*arguments)
        except Exception as error:
            result = error
        connection.send(result)


@dataclass(frozen=True)
class Outcome:
    """What was measured of one model.

    Attributes:
        size: what it weighs.
        peak_gib: most memory in use at a time.
        speeds: of each burst.
        own_speeds: of LightRNN's burst beside each.
    """

    size: Size
    peak_gib: float
    speeds: list[Speed]
    own_speeds: list[Speed]

    @property
    def usual(self) -> Speed:
        """Medians, as other work on the machine is no part of the model."""
        return Speed(*(median(values) for values in zip(*self.speeds, strict=True)))

    @property
    def lightrnn_times_faster(self) -> Speed:
        """By how much LightRNN is faster, medians over pairs of bursts side by side."""
        ratios = (
            [ours / theirs for ours, theirs in zip(own, other, strict=True)]
            for own, other in zip(self.own_speeds, self.speeds, strict=True)
        )
        return Speed(*(median(values) for values in zip(*ratios, strict=True)))


def contest(
    own: Apart, rivals: Sequence[Name], plan: Plan, repeats: int, seconds: float
) -> tuple[dict[Name, Outcome], dict[Name, str]]:
    """Train LightRNN beside one rival after the other, by turns, so that noise hits both alike.

    Args:
        own: LightRNN.
        rivals: names of the others.
        plan: what is trained.
        repeats: bursts of each rival.
        seconds: of a burst, though one step is the least.

    Returns:
        Outcomes by name, LightRNN's first, and why a rival has none.

    Raises:
        RivalError: LightRNN itself failed.
    """
    own.ask("warm_up", seconds)
    own_speeds: list[Speed] = []
    outcomes: dict[Name, Outcome] = {}
    failures: dict[Name, str] = {}
    for name in rivals:
        with Apart(name, plan) as rival:
            try:
                rival.ask("warm_up", seconds)
            except RivalError as error:
                failures[name] = str(error)
                continue
            pairs = [(own.ask("burst"), rival.ask("burst")) for _ in range(repeats)]
            outcomes[name] = Outcome(
                rival.ask("size"),
                rival.ask("peak_gib"),
                [theirs for _, theirs in pairs],
                [ours for ours, _ in pairs],
            )
        own_speeds += [ours for ours, _ in pairs]
    own_speeds = own_speeds or [own.ask("burst") for _ in range(repeats)]
    lightrnn = Outcome(own.ask("size"), own.ask("peak_gib"), own_speeds, [])
    return {LIGHTRNN: lightrnn, **outcomes}, failures
