"""The reallocation phase: statistics, exchange between ranks, solvers, certificate, commit."""

from allocation.collectives import RemoteError, run_together
from allocation.costs import CellCosts, DenseCosts, FactoredCosts, with_stay_bonus
from allocation.errors import AllocationError
from allocation.exchange import exchange_dense
from allocation.phase import ReallocationReport, reallocate
from allocation.solvers import SolverName
from allocation.statistics import WordStatistics, collect_statistics

__all__ = [
    "AllocationError",
    "CellCosts",
    "DenseCosts",
    "FactoredCosts",
    "ReallocationReport",
    "RemoteError",
    "SolverName",
    "WordStatistics",
    "collect_statistics",
    "exchange_dense",
    "reallocate",
    "run_together",
    "with_stay_bonus",
]
