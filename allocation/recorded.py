"""A reallocation on file: its costs, its table, and the prices that prove the table.

One safetensors file holds all that a checker needs to work the objective and the bound out again,
and in its header what the solver claimed. Without prices and claims it is a record of statistics,
from which any solver may start.

Names of arrays end in their sizes: V words, R rows, C columns, F and G features by row and column.
"""

import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from allocation.certificate import lower_bound
from allocation.costs import CellCosts, DenseCosts, FactoredCosts, LossArray, PenalizedCosts
from allocation.errors import AllocationError
from allocation.solvers.protocol import Solution
from lightrnn.errors import LightRNNError
from lightrnn.table import WordTable

FORMAT = "lightrnn reallocation 1"

ROUNDING = 1e-11
"""By what share of all losses and prices a claim may differ from what another machine works out."""

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_FEATURES = "row_features_VF", "column_features_VG"
_VECTORS = "row_vectors_RF", "column_vectors_CG"
_BIASES = "row_biases_R", "column_biases_C"
_CONSTANTS = "row_constants_V", "column_constants_V"
_LOSSES = "row_losses_VR", "column_losses_VC"
_TABLE = "row_of_word_V", "column_of_word_V"
_PENALTIES = "row_penalties_RR", "column_penalties_CC"
_PENALTY_TABLE = "row_left_V", "column_left_V"
_COUNTS, _PRICES = "counts_V", "prices_RC"

_WHOLE, _DOUBLE, _REAL = ("int32",), ("float64",), ("float32", "float64")
_TYPES = {
    _COUNTS: _DOUBLE,
    _PRICES: _DOUBLE,
    **dict.fromkeys(_CONSTANTS, _DOUBLE),
    **dict.fromkeys(_TABLE + _PENALTY_TABLE, _WHOLE),
    **dict.fromkeys(_FEATURES + _VECTORS + _BIASES + _LOSSES + _PENALTIES, _REAL),
}
"""All arrays that a file may have, and of which types each may be."""


@dataclass(frozen=True)
class Claim:
    """What a solver says of its table.

    Attributes:
        objective: loss of the table, nats.
        lower_bound: no table has a smaller one, nats.
        solver: its name.
    """

    objective: float
    lower_bound: float
    solver: str

    @property
    def gap_percent(self) -> float:
        """How far the objective may lie above the optimum, in percent of its absolute value."""
        gap = self.objective - self.lower_bound
        return 100.0 * gap / max(abs(self.objective), sys.float_info.min)


@dataclass(frozen=True, eq=False)
class Record:
    """What a file holds.

    Attributes:
        costs: what each word costs in each cell.
        table: the table found; the one in force where nothing was solved.
        prices_RC: prices that prove it, float64 [R, C]; None where nothing was solved.
        claim: what the solver says; None where nothing was solved.
    """

    costs: CellCosts
    table: WordTable
    prices_RC: LossArray | None
    claim: Claim | None


def save_record(path: Path, costs: CellCosts, solution: Solution) -> None:
    """Write a reallocation with its proof; the file is there as a whole or not at all.

    Args:
        path: of the file.
        costs: what the solver minimised: of all words on this rank, not shared out over ranks.
        solution: what it found.

    Raises:
        AllocationError: costs of this kind cannot be written, or the disk has no room.
    """
    costs.check_table(solution.table)
    claim = Claim(solution.objective, solution.lower_bound, solution.solver)
    arrays = _arrays_of(costs) | _table_arrays(_TABLE, solution.table)
    _write(path, arrays | {_PRICES: solution.prices_RC}, claim)


def save_statistics(path: Path, costs: CellCosts, table: WordTable) -> None:
    """Write costs and the table in force, for a solver to start from; raises as `save_record`."""
    costs.check_table(table)
    _write(path, _arrays_of(costs) | _table_arrays(_TABLE, table), None)


def record_bytes(costs: CellCosts) -> int:
    """Return how many bytes a file of these costs has, but for its table and prices."""
    return sum(array.nbytes for array in _arrays_of(costs).values())


def load_record(path: Path) -> Record:
    """Read what `save_record` or `save_statistics` wrote; its arrays stay on disk, memory-mapped.

    Raises:
        AllocationError: the file is missing, damaged, or does not hold a reallocation.
    """
    arrays, claim, _ = _read(path)
    try:
        _check(arrays)
        num_rows, num_columns = _table_shape(arrays)
        table = WordTable(*_pair(arrays, _TABLE), num_rows, num_columns)
        costs = _costs_of(arrays)
        prices_RC = arrays.get(_PRICES)
        if (prices_RC is None) != (claim is None):
            raise AllocationError("it has prices without claims, or claims without prices")
        return Record(costs, table, prices_RC, claim)
    except LightRNNError as error:
        raise AllocationError(f"{path} is no record of a reallocation: {error}") from error


def check_record(path: Path) -> Claim:
    """Work objective and bound out again, from the costs, the table and the prices on file.

    The solver takes no part in it. A claim that is right holds whoever wrote the file.

    Returns:
        The objective and the bound as worked out here.

    Raises:
        AllocationError: the file is damaged, proves nothing, or claims what is not so.
    """
    record = load_record(path)
    claim, prices_RC = record.claim, record.prices_RC
    if claim is None or prices_RC is None:
        raise AllocationError(f"{path} has statistics alone, expected prices and claims to check")
    losses = record.costs.costs_at(record.table).tolist()
    objective = math.fsum(losses)
    try:
        bound = min(lower_bound(record.costs, prices_RC), objective)
    except AllocationError as error:
        raise AllocationError(f"{path} proves nothing: {error}") from error
    rounding = ROUNDING * (math.fsum(map(abs, losses)) + float(prices_RC.sum()))
    for name, claimed, found in (
        ("objective", claim.objective, objective),
        ("lower bound", claim.lower_bound, bound),
    ):
        if not abs(claimed - found) <= rounding:
            raise AllocationError(
                f"{path} claims the {name} {claimed!r} nats, but its table and prices give "
                f"{found!r}; the file was changed, or is of another version"
            )
    arrays, _, sha256 = _read(path)
    if _sha256_of(arrays) != sha256:
        raise AllocationError(f"{path} has another SHA-256 than it was written with")
    return Claim(objective, bound, claim.solver)


def _arrays_of(costs: CellCosts) -> dict[str, Array]:
    """Return all arrays of some costs by name."""
    arrays: dict[str, Array] = {_COUNTS: costs.counts_V}
    if isinstance(costs, PenalizedCosts) and not isinstance(costs.costs, PenalizedCosts):
        arrays |= dict(zip(_PENALTIES, costs.penalties, strict=True))
        return arrays | _table_arrays(_PENALTY_TABLE, costs.table) | _arrays_of(costs.costs)
    if isinstance(costs, DenseCosts):
        return arrays | dict(zip(_LOSSES, (costs.row_loss_VR, costs.column_loss_VC), strict=True))
    if isinstance(costs, FactoredCosts):
        for names, pair in (
            (_FEATURES, costs.features),
            (_VECTORS, costs.vectors),
            (_BIASES, costs.biases),
            (_CONSTANTS, costs.constants),
        ):
            arrays |= dict(zip(names, pair, strict=True))
        return arrays
    raise AllocationError(
        f"{type(costs).__name__} cannot be recorded, expected costs of all words on this rank; "
        "exchange with mode dense"
    )


def _table_arrays(names: tuple[str, str], table: WordTable) -> dict[str, Array]:
    return dict(zip(names, (table.row_of_word, table.column_of_word), strict=True))


def _costs_of(arrays: Arrays) -> CellCosts:
    """Return the costs that arrays describe, which have the right shapes."""
    counts_V = arrays[_COUNTS]
    costs: CellCosts
    if _LOSSES[0] in arrays:
        costs = DenseCosts(*_pair(arrays, _LOSSES), counts_V)
    else:
        features, vectors, biases, constants = (
            _pair(arrays, names) for names in (_FEATURES, _VECTORS, _BIASES, _CONSTANTS)
        )
        costs = FactoredCosts(features, vectors, biases, constants, counts_V)
    if _PENALTIES[0] not in arrays:
        return costs
    table = WordTable(*_pair(arrays, _PENALTY_TABLE), costs.num_rows, costs.num_columns)
    return PenalizedCosts(costs, table, *_pair(arrays, _PENALTIES))


def _pair(arrays: Arrays, names: tuple[str, str]) -> tuple[Array, Array]:
    missing = [name for name in names if name not in arrays]
    if missing:
        raise AllocationError(f"it has no {missing[0]}")
    return arrays[names[0]], arrays[names[1]]


def _table_shape(arrays: Arrays) -> tuple[int, int]:
    if _LOSSES[0] in arrays:
        by_row, by_column = _pair(arrays, _LOSSES)
        return by_row.shape[1], by_column.shape[1]
    row_vectors, column_vectors = _pair(arrays, _VECTORS)
    return len(row_vectors), len(column_vectors)


def _check(arrays: Arrays) -> None:
    """Raise `AllocationError` where an array is missing, unknown, or of a wrong type or shape."""
    wrong = ({_COUNTS, *_TABLE} - arrays.keys()) | (arrays.keys() - _TYPES.keys())
    if wrong:
        raise AllocationError(f"{min(wrong)} is missing or unknown")
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        letters = name.rsplit("_", 1)[1]
        shape = array.shape if array.ndim == len(letters) else (0,) * len(letters)
        # The first array with a size decides it for all others.
        expected = tuple(map(sizes.setdefault, letters, shape))
        if array.shape != expected or array.dtype not in _TYPES[name]:
            raise AllocationError(
                f"{name} has shape {array.shape} and type {array.dtype}, expected {expected} and "
                f"{' or '.join(_TYPES[name])}"
            )


def _claim_of(claim: dict[str, Any] | None) -> Claim | None:
    if claim is None:
        return None
    return Claim(float(claim["objective"]), float(claim["lower_bound"]), str(claim["solver"]))


def _write(path: Path, arrays: Arrays, claim: Claim | None) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = {
            "format": FORMAT,
            "claim": json.dumps(claim and asdict(claim)),
            "sha256": _sha256_of(contiguous),
        }
        save_file(contiguous, unfinished, header)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise AllocationError(f"{path} cannot be written: {error}") from error


def _sha256_of(arrays: Arrays) -> str:
    """Return the SHA-256 of arrays, their names, types and shapes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read(path: Path) -> tuple[Arrays, Claim | None, str | None]:
    """Return the arrays on file, the claim, and their checksum, whatever they are."""
    try:
        # As tensors they stay memory-mapped, which they do not as arrays.
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT:
            raise AllocationError(f"{path} is of the format {header.get('format')!r}, not {FORMAT}")
        return arrays, _claim_of(json.loads(header["claim"])), header.get("sha256")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AllocationError(
            f"{path} cannot be read as a record of a reallocation: {error}"
        ) from error
