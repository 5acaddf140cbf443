"""The reallocation phase: statistics -> exchange -> solve -> certificate -> commit.

Every rank calls `reallocate` at the same step, and every rank returns the same table, or raises
the same error and keeps the old one.

Legend: V words.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from allocation.certificate_files import part_of_table, write_part
from allocation.collectives import broadcast_table, broadcast_text, run_together
from allocation.communicators import Communicator
from allocation.costs import CellCosts, LossArray, with_stay_bonus
from allocation.exchange import Exchanged, ExchangeMode, exchange
from allocation.recorded import record_bytes
from allocation.sharded_costs import ShardedCosts
from allocation.solvers import (
    Solution,
    Solver,
    SolverName,
    choose_solver,
    solve_within_rows,
    with_rows_fixed,
)
from allocation.statistics import StatisticsKeeper, StatisticsPass, WordStatistics
from allocation.storage import GIB, Storage
from allocation.trust_region import TrustRegion, Try, search
from lightrnn.model import LightRNN
from lightrnn.table import WordTable

BATCHES_BETWEEN_AGREEMENTS = 8
"""After so many batches of the statistics the ranks agree whether any has failed."""


@dataclass(frozen=True)
class Method:
    """How a reallocation is worked out.

    Attributes:
        solver: which solver rank 0 runs, where all moves are allowed.
        exchange: where the summed statistics go, see `allocation.exchange`.
        trust_region: which tables are tried and taken.
        time_budget_seconds: for each try; a solver out of time returns its best table; None for no
            bound.
        storage: where statistics go; it is spent by one reallocation.
        certificate_gib: largest certificate that is written, over all ranks.
    """

    solver: SolverName = "auto"
    exchange: ExchangeMode = "dense"
    trust_region: TrustRegion = field(default_factory=TrustRegion)
    time_budget_seconds: float | None = None
    storage: Storage = field(default_factory=Storage)
    certificate_gib: float = math.inf


@dataclass(frozen=True)
class Seconds:
    """Wall time of each step on this rank; waiting for rank 0 counts as solving."""

    statistics: float
    exchange: float
    solve: float
    measure: float


@dataclass(frozen=True)
class ReallocationReport:
    """What a reallocation promises, the proof of how near the best it is, and what was measured.

    Losses are in nats a token, of the training text with the hidden states held fixed where nothing
    else is said. The figures of a solution are those of the table taken, or of the last one tried.

    Attributes:
        accepted: whether a new table was taken; else the old one stays.
        solver: name of the solver that ran.
        moves: which moves were allowed.
        exchange: `dense` or `sharded`.
        tokens: number of training tokens counted.
        standard_error: of `loss_before`, for all of the training text where this is a sample; None
            for too little text.
        loss_before: measured with the old table.
        loss_predicted: of the new table, without the bonus for staying.
        solver_objective: what the solver minimised.
        lower_bound: no table has a smaller `solver_objective`.
        gap_percent: how far `solver_objective` may lie above the optimum.
        gap_nats: the same in nats a token.
        words_moved: words that have another cell now.
        words_moved_fraction: their share of the vocabulary.
        tokens_moved_fraction: their share of the training tokens.
        held_out_before: loss on held-out text with the old table; None where it was not measured.
        held_out_after: the same with the new one.
        tolerance: by how much it may rise.
        tries: all tables tried.
        seconds: wall time by step.
        bytes_exchanged: what this rank handed to collectives in the exchange.
    """

    accepted: bool
    solver: str
    moves: str
    exchange: str
    tokens: int
    standard_error: float | None
    loss_before: float
    loss_predicted: float
    solver_objective: float
    lower_bound: float
    gap_percent: float
    gap_nats: float
    words_moved: int
    words_moved_fraction: float
    tokens_moved_fraction: float
    held_out_before: float | None
    held_out_after: float | None
    tolerance: float
    tries: list[Try]
    seconds: Seconds
    bytes_exchanged: int


def reallocate(
    model: LightRNN,
    table: WordTable,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    communicator: Communicator,
    method: Method | None = None,
    held_out_loss: Callable[[WordTable], float] | None = None,
    certificate: Path | None = None,
    on_progress: Callable[[str], None] = lambda line: None,
    on_step: Callable[[str], None] = lambda step: None,
    carry_state: bool = True,
    keeper: StatisticsKeeper | None = None,
) -> tuple[WordTable, ReallocationReport]:
    """Find a better table for the model as it is.

    Args:
        model: with `table` set; neither its parameters nor its table change.
        table: the table in force.
        batches: this rank's lanes of the training text, or a sample of it, from their beginning.
        communicator: all ranks; its time-out has to outlast the solver on rank 0.
        method: how.
        held_out_loss: measures a table on held-out text, nats a token; called by all ranks, where
            it returns the same. Needed where the trust region measures.
        certificate: folder for the certificate of the table that is taken; without it none.
        on_progress: gets one line now and then.
        on_step: gets the name of each step as it begins, on every rank.
        carry_state: whether batches are consecutive; else each begins anew, as in training.
        keeper: keeps the statistics of a long pass; where it has some, `batches` begin after them.

    Returns:
        The table to go on with, `table` itself where no try was taken, and the report.

    Raises:
        LightRNNError: on every rank, where rank 0 cannot solve, as for losses that are not finite.
        RemoteError: on every rank but the failing one, where a rank failed otherwise.
    """
    begin = partial(StatisticsPass, model, batches, carry_state=carry_state)
    phase = _Phase(begin, table, communicator, method or Method(), on_progress, on_step, keeper)
    return phase.run(held_out_loss, certificate)


class _Phase:
    """One reallocation: what was counted, and the tables tried."""

    def __init__(
        self,
        begin: Callable[..., StatisticsPass],
        table: WordTable,
        communicator: Communicator,
        method: Method,
        on_progress: Callable[[str], None],
        on_step: Callable[[str], None],
        keeper: StatisticsKeeper | None,
    ) -> None:
        self.table, self.communicator, self.method = table, communicator, method
        self.on_progress, self.on_step = on_progress, on_step
        self.tables: list[WordTable] = []
        self.prices: list[LossArray] = []
        self.solver_name = ""
        self.measuring_seconds = self.solving_seconds = 0.0
        on_step("statistics")
        on_progress("adding up statistics over the training text")
        began = time.perf_counter()
        statistics = self._add_up(begin, keeper)
        self.statistics_seconds = time.perf_counter() - began
        on_step("exchange")
        self.exchanged: Exchanged = exchange(
            statistics, communicator, method.exchange, method.storage
        )
        self.num_tokens = float(self.exchanged.counts_V.sum())

    def _add_up(
        self, begin: Callable[..., StatisticsPass], keeper: StatisticsKeeper | None
    ) -> WordStatistics:
        """Run over the text, and let the keeper have its say now and then."""
        communicator = self.communicator
        one_pass = run_together(lambda: begin(storage=self.method.storage), communicator)
        if keeper is not None:
            keeper.restore(one_pass)
        all_ended = np.zeros(1, dtype=np.int64)
        while not all_ended[0]:
            all_ended[0] = run_together(
                lambda: one_pass.advance(BATCHES_BETWEEN_AGREEMENTS), communicator
            )
            communicator.all_reduce(all_ended, "min")
            if keeper is not None:
                keeper.keep(one_pass, ended=bool(all_ended[0]))
        return one_pass.statistics

    def run(
        self, held_out_loss: Callable[[WordTable], float] | None, certificate: Path | None
    ) -> tuple[WordTable, ReallocationReport]:
        """Try tables; return the one to go on with, its certificate written."""
        region = self.method.trust_region
        measure = held_out_loss if region.max_tries else None
        before = self._measure(measure, self.table)
        tries, taken = search(region, before, lambda bonus: self._attempt(bonus, measure))
        chosen = tries[-1 if taken is None else taken]
        if taken is not None and certificate is not None:
            self._write_certificate(certificate, taken, chosen.stay_bonus)
        exchanged, tokens = self.exchanged, self.num_tokens
        error = exchanged.standard_error
        report = ReallocationReport(
            accepted=taken is not None,
            solver=self.solver_name,
            moves=region.moves,
            exchange=self.method.exchange,
            tokens=round(tokens),
            standard_error=None if math.isnan(error) else error,
            loss_before=(exchanged.row_nll + exchanged.column_nll) / tokens,
            loss_predicted=chosen.loss_predicted,
            solver_objective=chosen.objective,
            lower_bound=chosen.lower_bound,
            gap_percent=chosen.gap_percent,
            gap_nats=chosen.objective - chosen.lower_bound,
            words_moved=chosen.words_moved,
            words_moved_fraction=chosen.words_moved / self.table.num_words,
            tokens_moved_fraction=chosen.tokens_moved_fraction,
            held_out_before=before,
            held_out_after=chosen.held_out_loss,
            tolerance=region.tolerance,
            tries=tries,
            seconds=Seconds(
                self.statistics_seconds,
                exchanged.seconds,
                self.solving_seconds,
                self.measuring_seconds,
            ),
            bytes_exchanged=exchanged.bytes_sent,
        )
        return self.table if taken is None else self.tables[taken], report

    def _attempt(self, stay_bonus: float, measure: Callable[[WordTable], float] | None) -> Try:
        """Solve with a bonus for staying, and measure the table."""
        began = time.perf_counter()
        self.on_step("solve")
        solution = run_together(lambda: self._solve(stay_bonus), self.communicator)
        self.on_step("certificate")
        proof = np.zeros(3)
        if solution is not None:
            self.prices.append(solution.prices_RC)
            proof[:] = solution.objective, solution.lower_bound, solution.gap_percent
        self.communicator.broadcast(proof)
        self.solver_name = broadcast_text(solution.solver if solution else "", 0, self.communicator)
        self.on_step("commit")
        table = broadcast_table(solution.table if solution else None, self.table, self.communicator)
        self.tables.append(table)
        self.solving_seconds += time.perf_counter() - began
        objective, lower_bound, gap_percent = proof.tolist()
        held_out_loss = self._measure(measure, table)
        return self._try(stay_bonus, table, objective, lower_bound, gap_percent, held_out_loss)

    def _write_certificate(self, folder: Path, taken: int, stay_bonus: float) -> None:
        """Write the part of this rank's words, unless all parts are too large."""
        self.on_step("certificate")
        words, communicator = self.exchanged.words, self.communicator
        num_bytes = np.array([record_bytes(self.exchanged.costs)])
        communicator.all_reduce(num_bytes)
        if num_bytes[0] > self.method.certificate_gib * GIB:
            self.on_progress(
                f"no certificate on file: it takes {num_bytes[0] / GIB:.2f} GiB, more than "
                f"allocation.certificate_gib={self.method.certificate_gib:g}"
            )
            return
        prices_RC = np.zeros((self.table.num_rows, self.table.num_columns))
        if communicator.rank == 0:
            prices_RC[:] = self.prices[taken]
        communicator.broadcast(prices_RC)
        part = communicator.rank, 1 if self.method.exchange == "dense" else communicator.world_size
        own = part_of_table(self.tables[taken], words)

        def write() -> None:
            if words:
                write_part(folder, part, self._restricted(stay_bonus), own, prices_RC)

        run_together(write, communicator)

    def _try(
        self,
        stay_bonus: float,
        table: WordTable,
        objective: float,
        lower_bound: float,
        gap_percent: float,
        held_out_loss: float | None,
    ) -> Try:
        counts_V = self.exchanged.counts_V
        left_row = table.row_of_word != self.table.row_of_word
        left_column = table.column_of_word != self.table.column_of_word
        bonus = stay_bonus * float(counts_V[left_row].sum() + counts_V[left_column].sum())
        moved = left_row | left_column
        return Try(
            stay_bonus=stay_bonus,
            loss_predicted=(objective - bonus) / self.num_tokens,
            held_out_loss=held_out_loss,
            objective=objective / self.num_tokens,
            lower_bound=lower_bound / self.num_tokens,
            gap_percent=gap_percent,
            words_moved=int(moved.sum()),
            tokens_moved_fraction=float(counts_V[moved].sum()) / self.num_tokens,
        )

    def _solve(self, stay_bonus: float) -> Solution | None:
        """Return rank 0's solution; where words are shared out, the others serve their costs."""
        is_root = self.communicator.rank == 0
        if self.method.exchange == "dense":
            return self._solve_on_root(self._restricted(stay_bonus)) if is_root else None
        sharded = ShardedCosts(
            self._restricted(stay_bonus), self.exchanged.counts_V, self.communicator
        )
        if not is_root:
            sharded.serve()
            return None
        with sharded:
            return self._solve_on_root(sharded)

    def _restricted(self, stay_bonus: float) -> CellCosts:
        """Return the costs of this rank's words with what the trust region adds to them."""
        own = part_of_table(self.table, self.exchanged.words)
        restrict = (
            with_rows_fixed if self.method.trust_region.moves == "columns" else with_stay_bonus
        )
        return restrict(self.exchanged.costs, own, stay_bonus)

    def _solve_on_root(self, costs: CellCosts) -> Solution:
        solve: Solver = solve_within_rows
        if self.method.trust_region.moves == "all":
            solve = choose_solver(self.method.solver, costs.num_words, costs.num_cells)
        return solve(
            costs,
            self.table,
            self.on_progress,
            time_budget_seconds=self.method.time_budget_seconds,
        )

    def _measure(
        self, measure: Callable[[WordTable], float] | None, table: WordTable
    ) -> float | None:
        if measure is None:
            return None
        began = time.perf_counter()
        loss = measure(table)
        self.measuring_seconds += time.perf_counter() - began
        return loss
