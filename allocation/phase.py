"""The reallocation phase: statistics -> exchange -> solve -> certificate -> commit.

Every rank calls `reallocate` at the same step, and every rank returns the same table, or raises
the same error and keeps the old one.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch.distributed as dist
from torch import Tensor

from allocation.collectives import broadcast_table, broadcast_text, run_together
from allocation.communicators import Communicator, TorchCommunicator
from allocation.costs import with_stay_bonus
from allocation.exchange import Exchanged, exchange
from allocation.solvers import Solution, SolverName, choose_solver
from allocation.statistics import collect_statistics
from lightrnn.model import LightRNN
from lightrnn.table import WordTable


@dataclass(frozen=True)
class Seconds:
    """Wall time of each step on this rank; waiting for rank 0 counts as solving."""

    statistics: float
    exchange: float
    solve: float
    commit: float


@dataclass(frozen=True)
class ReallocationReport:
    """What a reallocation promises, and the proof of how near the best it is.

    Losses are of the training text with the hidden states held fixed; a stay bonus takes no part
    in them, but in `solver_objective` and `lower_bound`.

    Attributes:
        solver: name of the solver that ran.
        tokens: number of training tokens counted.
        loss_before: measured with the old table, nats a token.
        loss_predicted: of the new table, nats a token.
        solver_objective: what the solver minimised, nats a token.
        lower_bound: no table has a smaller `solver_objective`, nats a token.
        gap_percent: how far `solver_objective` may lie above the optimum.
        words_moved: words that have another cell now.
        words_moved_fraction: their share of the vocabulary.
        tokens_moved_fraction: their share of the training tokens.
        seconds: wall time by step.
        bytes_exchanged: what this rank handed to collectives in the exchange.
    """

    solver: str
    tokens: int
    loss_before: float
    loss_predicted: float
    solver_objective: float
    lower_bound: float
    gap_percent: float
    words_moved: int
    words_moved_fraction: float
    tokens_moved_fraction: float
    seconds: Seconds
    bytes_exchanged: int


def reallocate(
    model: LightRNN,
    table: WordTable,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    group: dist.ProcessGroup,
    solver: SolverName = "auto",
    stay_bonus: float = 0.0,
    on_progress: Callable[[str], None] = lambda line: None,
) -> tuple[WordTable, ReallocationReport]:
    """Find a better table for the model as it is.

    Args:
        model: with `table` set; neither its parameters nor its table change.
        table: the table in force.
        batches: this rank's lanes of the training text, from their beginning.
        group: all ranks, for CPU tensors; its time-out has to outlast the solver on rank 0.
        solver: which solver rank 0 runs.
        stay_bonus: nats a token that leaving the row costs, and leaving the column once more.
        on_progress: gets one line now and then.

    Raises:
        LightRNNError: on every rank, where rank 0 cannot solve, as for losses that are not finite.
        RemoteError: on every rank but the failing one, where a rank failed otherwise.
    """
    clock = [time.perf_counter()]
    on_progress("adding up hidden states over the training text")
    communicator = TorchCommunicator(group)
    statistics = run_together(lambda: collect_statistics(model, batches), communicator)
    clock.append(time.perf_counter())
    exchanged = exchange(statistics, communicator)
    clock.append(time.perf_counter())
    solved = run_together(
        lambda: (
            _solve_on_root(exchanged, table, solver, stay_bonus, on_progress)
            if communicator.rank == 0
            else None
        ),
        communicator,
    )
    clock.append(time.perf_counter())
    new_table = broadcast_table(solved[0].table if solved else None, table, communicator)
    proof = _broadcast_proof(solved, communicator)
    solver_name = broadcast_text(solved[0].solver if solved else "", 0, communicator)
    clock.append(time.perf_counter())

    moved = (new_table.row_of_word != table.row_of_word) | (
        new_table.column_of_word != table.column_of_word
    )
    tokens = float(exchanged.counts_V.sum())
    loss_predicted, objective, lower_bound, gap_percent = proof
    return new_table, ReallocationReport(
        solver=solver_name,
        tokens=round(tokens),
        loss_before=(exchanged.row_nll + exchanged.column_nll) / tokens,
        loss_predicted=loss_predicted / tokens,
        solver_objective=objective / tokens,
        lower_bound=lower_bound / tokens,
        gap_percent=gap_percent,
        words_moved=int(moved.sum()),
        words_moved_fraction=float(moved.mean()),
        tokens_moved_fraction=float(exchanged.counts_V[moved].sum() / tokens),
        seconds=Seconds(*np.diff(clock).tolist()),
        bytes_exchanged=exchanged.bytes_sent,
    )


def _solve_on_root(
    exchanged: Exchanged,
    table: WordTable,
    solver: SolverName,
    stay_bonus: float,
    on_progress: Callable[[str], None],
) -> tuple[Solution, float]:
    """Return rank 0's solution and its predicted loss in nats."""
    costs = exchanged.costs
    solver_costs = with_stay_bonus(costs, table, stay_bonus)
    solve = choose_solver(solver, table.num_words, table.num_rows * table.num_columns)
    solution = solve(solver_costs, table, on_progress)
    return solution, costs.objective(solution.table)


def _broadcast_proof(
    solved: tuple[Solution, float] | None, communicator: Communicator
) -> list[float]:
    """Return predicted loss, objective, lower bound (nats) and gap (percent) on every rank."""
    proof = np.zeros(4)
    if solved is not None:
        solution, predicted = solved
        proof[:] = predicted, solution.objective, solution.lower_bound, solution.gap_percent
    communicator.broadcast(proof)
    return [float(value) for value in proof]
