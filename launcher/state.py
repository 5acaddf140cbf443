"""Everything that changes while a run goes on."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from launcher.averaging import AveragedParameters
from launcher.engines import Engine
from launcher.rounds import Rounds
from launcher.skipped import Skipped
from lightrnn import LightRNN, WordTable


@dataclass
class TrainingState:
    """The state of a run on one rank.

    Attributes:
        model: with the table set.
        engine: computes the model's steps, and has its optimizer.
        table: the word table in force.
        lanes: the lanes of this rank.
        lane_state: recurrent state of these lanes, [S, L, B, H].
        table_version: number of reallocations that made the table.
        step: steps taken.
        rounds: state of the reallocation schedule.
        skipped: steps that were left out.
        valid_perplexity: measured at this very step; 0 where it was not.
        averaged: averages of the parameters over the steps, where they are wanted.
    """

    model: LightRNN
    engine: Engine
    table: WordTable
    lanes: range
    lane_state: Tensor = field(init=False)
    table_version: int = 0
    step: int = 0
    rounds: Rounds = field(default_factory=Rounds)
    skipped: Skipped = field(default_factory=Skipped)
    valid_perplexity: float = 0.0
    averaged: AveragedParameters | None = None

    def __post_init__(self) -> None:
        self.model.set_table(self.table)
        self.reset_lanes()

    def reset_lanes(self) -> None:
        """Forget what was read: the lanes begin anew."""
        self.lane_state = self.model.initial_state(len(self.lanes))

    def best_parameters(self) -> AbstractContextManager[None]:
        """Let the model have what predicts best meanwhile: the averages where there are any."""
        return nullcontext() if self.averaged is None else self.averaged.in_use()

    def set_table(self, table: WordTable, version: int) -> None:
        """Put another table in force."""
        self.model.set_table(table)
        self.table, self.table_version = table, version
