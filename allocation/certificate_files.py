"""The certificate of a reallocation as files: what words cost, the table, and prices that prove it.

Every rank that owns words writes its part. The objective of the table is the sum over the parts,
and so is its bound, but for the prices of the cells, which every part takes off and which count
once (see `allocation.certificate`).
"""

import math
import re
from pathlib import Path

import numpy as np

from allocation.certificate import lower_bound
from allocation.costs import CellCosts, LossArray
from allocation.errors import AllocationError
from allocation.exchange import shares_of_words
from allocation.recorded import Claim, check_record, load_record, save_record
from allocation.solvers import Solution
from lightrnn.table import WordTable

_PART = re.compile(r"part-(\d{5})-of-(\d{5})\.safetensors")


def part_of_table(table: WordTable, words: range) -> WordTable:
    """Return where these words are."""
    own = slice(words.start, words.stop, words.step)
    return WordTable(
        table.row_of_word[own], table.column_of_word[own], table.num_rows, table.num_columns
    )


def write_part(
    folder: Path, part: tuple[int, int], costs: CellCosts, table: WordTable, prices_RC: LossArray
) -> None:
    """Write the part of some words; the file is there as a whole or not at all.

    Args:
        folder: of the certificate; made where it is missing.
        part: number of the part, and how many there are.
        costs: what the solver minimised, of these words.
        table: where these words went.
        prices_RC: price of each cell in nats, for all words.

    Raises:
        AllocationError: it cannot be written.
    """
    objective = costs.objective(table)
    bound = min(lower_bound(costs, prices_RC), objective)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AllocationError(f"{folder} cannot be made: {error}") from error
    path = folder / f"part-{part[0]:05d}-of-{part[1]:05d}.safetensors"
    save_record(path, costs, Solution(table, objective, bound, prices_RC, "", 0.0))


def check_certificate(folder: Path, table: WordTable) -> Claim:
    """Work the objective and the bound of a table out again, from the certificate's parts.

    Args:
        folder: of the certificate.
        table: that it has to be of.

    Returns:
        Objective and lower bound of all words.

    Raises:
        AllocationError: a part is missing or damaged, claims what is not so, or is of another
            table.
    """
    paths = _parts(folder)
    shares = shares_of_words(table.num_words, len(paths), "sharded")
    claims = []
    prices: list[LossArray] = []
    for path, words in zip(paths, shares, strict=True):
        claims.append(check_record(path))
        record = load_record(path)
        assert record.prices_RC is not None
        prices.append(record.prices_RC)
        if record.table != part_of_table(table, words):
            raise AllocationError(
                f"{path} is of another table; remove {folder}, the run does not need it"
            )
        if not np.array_equal(prices[0], prices[-1]):
            raise AllocationError(
                f"{path} has other prices than {paths[0].name}; remove {folder}, the run does not "
                "need it"
            )
    objective = math.fsum(claim.objective for claim in claims)
    counted_again = (len(claims) - 1) * math.fsum(prices[0].ravel().tolist())
    bound = math.fsum([*(claim.lower_bound for claim in claims), counted_again])
    return Claim(objective, min(bound, objective), "")


def _parts(folder: Path) -> list[Path]:
    """Return the files of a certificate in order.

    Raises:
        AllocationError: one is missing, or there is something else.
    """
    found = {path.name: path for path in folder.iterdir()}
    first = _PART.fullmatch(min(found, default=""))
    num_parts = int(first[2]) if first else 1
    expected = [f"part-{n:05d}-of-{num_parts:05d}.safetensors" for n in range(num_parts)]
    wrong = sorted(found.keys() ^ set(expected))
    if wrong:
        raise AllocationError(
            f"{folder} should hold {num_parts} parts, but {wrong[0]} is missing or not one of "
            "them; remove the folder, the run does not need it"
        )
    return [found[name] for name in expected]
