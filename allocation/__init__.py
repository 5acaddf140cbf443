"""The reallocation phase: statistics, exchange between ranks, solvers, certificate, commit."""

from allocation.certificate_files import check_certificate
from allocation.collectives import RemoteError, run_together
from allocation.communicators import (
    Communicator,
    MPICommunicator,
    SingleProcess,
    TorchCommunicator,
)
from allocation.costs import CellCosts, DenseCosts, FactoredCosts, with_stay_bonus
from allocation.errors import AllocationError
from allocation.exchange import ExchangeMode, bytes_exchanged, exchange
from allocation.phase import Method, ReallocationReport, reallocate
from allocation.sharded_costs import ShardedCosts
from allocation.solvers import SolverName
from allocation.statistics import (
    StatisticsKeeper,
    StatisticsKind,
    StatisticsPass,
    WordStatistics,
    collect_statistics,
)
from allocation.storage import Storage
from allocation.trust_region import Moves, TrustRegion

__all__ = [
    "AllocationError",
    "CellCosts",
    "Communicator",
    "DenseCosts",
    "ExchangeMode",
    "FactoredCosts",
    "MPICommunicator",
    "Method",
    "Moves",
    "ReallocationReport",
    "RemoteError",
    "ShardedCosts",
    "SingleProcess",
    "SolverName",
    "StatisticsKeeper",
    "StatisticsKind",
    "StatisticsPass",
    "Storage",
    "TorchCommunicator",
    "TrustRegion",
    "WordStatistics",
    "bytes_exchanged",
    "check_certificate",
    "collect_statistics",
    "exchange",
    "reallocate",
    "run_together",
    "with_stay_bonus",
]
