"""Validation and test text taken out of the training text, where none was given.

Rows are taken in stretches, so that what is held out is running text; which ones follows from their
place in what one worker reads, so that any number of workers take the same.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from data_shards.errors import CorpusError
from data_shards.sources import Piece, Span

HoldOutBy = Literal["rows", "files"]

ROWS_OF_STRETCH = 16


@dataclass(frozen=True)
class HoldOut:
    """What is held out for validation, and as much again for test.

    Attributes:
        fraction: of the stretches of rows or of the files, above 0 and at most a quarter.
        by: whether stretches of rows or whole files are held out.

    Raises:
        CorpusError: the fraction is out of range.
    """

    fraction: float
    by: HoldOutBy = "rows"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 0.25:
            raise CorpusError(
                f"hold_out={self.fraction}, expected a fraction above 0 and at most 0.25 for "
                "validation, as much is taken for test; change --hold-out"
            )

    def split_of(self, place: int) -> str:
        """Return the split of a stretch or a file by its place."""
        period = round(1 / self.fraction)
        return {period - 1: "valid", period // 2 - 1: "test"}.get(place % period, "train")

    def route(self, pieces: Iterable[Piece]) -> Iterator[tuple[str, Piece]]:
        """Yield pieces of the training text with their splits, cut where these change."""
        row = 0
        for piece in pieces:
            row_ends = np.flatnonzero(np.frombuffer(piece.text, np.uint8) == ord("\n")) + 1
            ends_of_stretches = row_ends[
                (row + 1 + np.arange(len(row_ends))) % ROWS_OF_STRETCH == 0
            ]
            start, stretch = 0, row // ROWS_OF_STRETCH
            for end in [*ends_of_stretches.tolist(), len(piece.text)]:
                if start < end:
                    yield self.split_of(stretch), replace(piece, text=piece.text[start:end])
                start, stretch = end, stretch + 1
            row += len(row_ends)


def files_by_split(hold_out: HoldOut, spans: Iterable[Span]) -> dict[str, list[str]]:
    """Return the files of the training text by split, in order.

    Raises:
        CorpusError: there are too few files to hold some out.
    """
    files = list(dict.fromkeys(str(part.path) for span in spans for part in span.parts))
    splits: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for place, file in enumerate(files):
        splits[hold_out.split_of(place)].append(file)
    if not splits["valid"] or not splits["test"]:
        raise CorpusError(
            f"the training text has {len(files)} files, too few to hold out {hold_out.fraction} of "
            "them; raise --hold-out, use --hold-out-by rows, or give --valid and --test"
        )
    return splits
