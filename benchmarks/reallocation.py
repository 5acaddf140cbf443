"""A whole reallocation at any vocabulary size: statistics, exchange, solver, bound.

    python benchmarks/reallocation.py --vocab-size 10240000 --hidden-size 32 --ranks 4
    python benchmarks/reallocation.py --quick

Ranks are processes of this machine that talk over gloo. Text and hidden states are simulated: every
word occurs, most of them by Zipf's law. The last line of the output is JSON.

Legend: V words, R rows, C columns, B lanes, T words of a lane, N tokens.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from allocation import Method, TorchCommunicator, TrustRegion, reallocate
from allocation.exchange import ExchangeMode
from allocation.storage import Storage
from benchmarks.measuring import GIB, in_own_process, machine, versions
from benchmarks.simulated import OCCURRENCE_NOISE, load_simulated
from benchmarks.solver_runs import write_simulated
from lightrnn import LightRNN, ModelShape, WordTable

QUICK_VOCAB_SIZE, QUICK_TOKENS = 3000, 40_000
NUM_LANES, BPTT = 128, 16
SECONDS_BETWEEN_SAMPLES = 0.5
TIMEOUT = timedelta(hours=12)

Words = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Plan:
    """What is reallocated, and how.

    Attributes:
        vocab_size, hidden_size, tokens: V, H, and the length of the whole text.
        ranks: processes.
        exchange: see `allocation.exchange`.
        memory_gib: of each rank for its statistics; beyond it they lie in files.
        time_budget_seconds: of the solver; None for no bound.
        seed: decides everything.
    """

    vocab_size: int
    hidden_size: int
    tokens: int
    ranks: int
    exchange: ExchangeMode
    memory_gib: float
    time_budget_seconds: float | None
    seed: int


class SimulatedModel(LightRNN):
    """A model whose hidden states are simulated, around a mean of the word that comes next.

    Args:
        folder: of the simulation.
        seed: of the noise.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.costs, table = load_simulated(folder)
        self.random = torch.Generator().manual_seed(seed)
        hidden_size = self.costs.features[0].shape[1]
        shape = ModelShape(table.num_rows, table.num_columns, hidden_size, hidden_size)
        super().__init__(shape, table.num_words)
        self.set_table(table)
        for side, head in enumerate((self.row_head, self.column_head)):
            head.weight.data = torch.from_numpy(self.costs.vectors[side])
            head.bias.data = torch.from_numpy(self.costs.biases[side])

    def hidden_states(
        self, inputs_BT: Tensor, targets_BT: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return states that predict rows and columns, [T, B, H], and the state as it is."""
        words_TB = targets_BT.t().numpy()
        counts_TB1 = self.costs.counts_V[words_TB, None].astype(np.float32)
        for_row, for_column = (
            torch.from_numpy(features_VH[words_TB] / counts_TB1)
            for features_VH in self.costs.features
        )
        noise = OCCURRENCE_NOISE / math.sqrt(for_row.shape[-1])
        for hidden_TBH in (for_row, for_column):
            hidden_TBH += noise * torch.randn(hidden_TBH.shape, generator=self.random)
        return for_row, for_column, state


def text_of_rank(plan: Plan, rank: int) -> Words:
    """Return a rank's share of the text, int32 [N]: each word once, the others by Zipf's law."""
    random = np.random.default_rng([plan.seed, rank])
    once = np.arange(rank, plan.vocab_size, plan.ranks)
    num_drawn = max(0, plan.tokens // plan.ranks - len(once))
    ends = np.cumsum(1 / np.arange(1, plan.vocab_size + 1))
    drawn = np.searchsorted(ends, random.random(num_drawn) * ends[-1])
    return random.permutation(np.concatenate([once, drawn])).astype(np.int32)


def batches_of(words: Words) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a text in lanes as `(inputs_BT, targets_BT)`; what fills no lane is left out."""
    text = torch.from_numpy(words[: len(words) // NUM_LANES * NUM_LANES]).view(NUM_LANES, -1)
    for start in range(0, text.shape[1] - 1, BPTT):
        piece = text[:, start : start + BPTT + 1]
        yield piece[:, :-1], piece[:, 1:]


def run_rank(rank: int, plan: Plan, folder: Path) -> None:
    """Take part in the reallocation; rank 0 writes the report."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // plan.ranks))
    dist.init_process_group("gloo", f"file://{folder / 'ranks'}", TIMEOUT, plan.ranks, rank)
    model = SimulatedModel(folder, plan.seed + rank)
    assert dist.group.WORLD is not None
    _, report = reallocate(
        model,
        WordTable.load(folder / "table.arrow"),
        batches_of(text_of_rank(plan, rank)),
        communicator=TorchCommunicator(dist.group.WORLD),
        method=Method(
            solver="auction",
            exchange=plan.exchange,
            trust_region=TrustRegion(moves="all"),
            time_budget_seconds=plan.time_budget_seconds,
            storage=Storage(plan.memory_gib, folder),
        ),
        on_progress=_tell if rank == 0 else lambda line: None,
    )
    if rank == 0:
        (folder / "report.json").write_text(json.dumps(asdict(report)))
    dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    plan, output = _parse(arguments)
    peaks = {"own": 0.0, "files": 0.0, "together": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _tell(f"simulating hidden states of {plan.vocab_size} words")
        # Normalisers are added up by the ranks.
        in_own_process(write_simulated, plan.vocab_size, plan.hidden_size, plan.seed, folder, False)
        ranks = mp.start_processes(
            run_rank, (plan, folder), plan.ranks, join=False, start_method="spawn"
        )
        while not ranks.join(SECONDS_BETWEEN_SAMPLES):
            own, files = np.sum([_resident_gib(pid) for pid in ranks.pids()], axis=0)
            for kind, size in (("own", own), ("files", files), ("together", own + files)):
                peaks[kind] = max(peaks[kind], float(size))
        report = json.loads((folder / "report.json").read_text())
    figures = {
        "benchmark": "reallocation",
        **asdict(plan),
        "peak_gib_of_all_ranks": peaks,
        "report": report,
        "machine": machine(),
        "versions": versions(),
    }
    _print_summary(figures)
    if output:
        output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def _parse(arguments: Sequence[str] | None) -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(prog="benchmarks/reallocation.py", description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=1_000_000)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--tokens", type=int, help="of the text (default: 4 a word)")
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--exchange", choices=("dense", "sharded"), default="sharded")
    parser.add_argument("--memory-gib", type=float, default=1.0, help="of each rank for statistics")
    parser.add_argument("--time-budget", type=float, help="seconds for the solver")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.vocab_size, given.hidden_size, given.tokens = QUICK_VOCAB_SIZE, 16, QUICK_TOKENS
    plan = Plan(
        given.vocab_size,
        given.hidden_size,
        given.tokens or 4 * given.vocab_size,
        given.ranks,
        given.exchange,
        given.memory_gib,
        given.time_budget,
        given.seed,
    )
    return plan, given.output


def _resident_gib(pid: int) -> tuple[float, float]:
    """Return what a process has in memory: of its own, and pages of files that it mapped."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended, or the system has no such file
        return 0.0, 0.0
    kib = {
        name: int(size.split()[0])
        for name, _, size in (line.partition(":") for line in lines)
        if name.startswith("Rss")
    }
    return (
        (kib.get("RssAnon", 0) + kib.get("RssShmem", 0)) * 1024 / GIB,
        kib.get("RssFile", 0) * 1024 / GIB,
    )


def _print_summary(figures: dict[str, Any]) -> None:
    report, peaks = figures["report"], figures["peak_gib_of_all_ranks"]
    print(
        f"{figures['vocab_size']} words, {report['tokens']} tokens, {figures['ranks']} ranks, "
        f"{figures['exchange']}: {report['loss_before']:.5f} -> {report['loss_predicted']:.5f} "
        f"nats a token, at most {report['gap_percent']:.4f} % above the best table"
    )
    seconds = ", ".join(f"{name} {time:.1f} s" for name, time in report["seconds"].items())
    print(f"{seconds}; {report['bytes_exchanged'] / GIB:.3f} GiB exchanged by rank 0")
    print(
        f"peak of all ranks: {peaks['own']:.2f} GiB of their own, {peaks['files']:.2f} GiB of "
        f"mapped files, {peaks['together']:.2f} GiB together"
    )


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
