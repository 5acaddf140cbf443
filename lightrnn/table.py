"""The word table: every word of the vocabulary in a cell of its own.

Legend: V words, R rows, C columns.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lightrnn.errors import WordTableError

SPARE = -1
"""What `WordTable.word_at_cell` holds where a cell has no word."""

_METADATA_KEYS = {b"num_rows", b"num_columns", b"fingerprint"}

IntArray = npt.NDArray[np.int32]


def default_shape(num_words: int) -> tuple[int, int]:
    """Return the smallest square table `(R, C)` that holds V words (Li et al., 2016, 3.1)."""
    side = math.isqrt(max(num_words - 1, 0)) + 1
    return side, side


@dataclass(frozen=True, eq=False)
class WordTable:
    """A one-to-one placement of V words into the R x C cells of a table.

    Attributes:
        row_of_word: row of each word, int32 [V].
        column_of_word: column of each word, int32 [V].
        num_rows: R.
        num_columns: C; `R * C >= V`, the cells left over stay empty.

    Raises:
        WordTableError: two words share a cell, a cell lies outside, or the table is too small.
    """

    row_of_word: IntArray
    column_of_word: IntArray
    num_rows: int
    num_columns: int

    def __post_init__(self) -> None:
        rows, columns = np.asarray(self.row_of_word), np.asarray(self.column_of_word)
        if rows.ndim != 1 or rows.shape != columns.shape:
            raise WordTableError(
                f"row_of_word has shape {rows.shape} and column_of_word {columns.shape}, "
                "expected one number a word in each"
            )
        check_capacity(len(rows), self.num_rows, self.num_columns)
        for name, values, size in (
            ("row", rows, self.num_rows),
            ("column", columns, self.num_columns),
        ):
            # Before they become int32: a number that does not fit would wrap to some other cell.
            if values.dtype.kind not in "iu":
                raise WordTableError(f"{name}s are of type {values.dtype}, expected whole numbers")
            outside = np.flatnonzero((values < 0) | (values >= size))
            if len(outside):
                word = int(outside[0])
                raise WordTableError(
                    f"word {word} has {name} {values[word]}, expected 0 to {size - 1}"
                )
        cells = rows.astype(np.int64) * self.num_columns + columns
        order = np.argsort(cells, kind="stable")
        shared = np.flatnonzero(np.diff(cells[order]) == 0)
        if len(shared):
            first, second = order[shared[0]], order[shared[0] + 1]
            raise WordTableError(
                f"words {first} and {second} share the cell "
                f"({rows[first]}, {columns[first]}), expected a cell of its own for each"
            )
        for name, values in (("row_of_word", rows), ("column_of_word", columns)):
            kept = values.astype(np.int32)
            kept.setflags(write=False)
            object.__setattr__(self, name, kept)

    @classmethod
    def from_cells(
        cls, cell_of_word: npt.ArrayLike, num_rows: int, num_columns: int
    ) -> "WordTable":
        """Build a table from cell numbers counted row by row, `row * C + column`, shape [V]."""
        cells = np.asarray(cell_of_word)
        check_capacity(len(cells), num_rows, num_columns)
        return cls(cells // num_columns, cells % num_columns, num_rows, num_columns)

    @classmethod
    def random(cls, num_words: int, num_rows: int, num_columns: int, seed: int) -> "WordTable":
        """Place words by chance; the same seed gives the same table."""
        check_capacity(num_words, num_rows, num_columns)
        cells = np.random.default_rng(seed).permutation(num_rows * num_columns)[:num_words]
        return cls.from_cells(cells, num_rows, num_columns)

    @classmethod
    def by_frequency(cls, counts: npt.ArrayLike, num_rows: int, num_columns: int) -> "WordTable":
        """Fill the table row by row, most frequent word first; ties keep their order."""
        counts = np.asarray(counts)
        check_capacity(len(counts), num_rows, num_columns)
        # Reversed twice, not negated: unsigned counts have no negatives.
        order = len(counts) - 1 - np.argsort(counts[::-1], kind="stable")[::-1]
        cells = np.empty(len(counts), dtype=np.int64)
        cells[order] = np.arange(len(counts))
        return cls.from_cells(cells, num_rows, num_columns)

    @property
    def num_words(self) -> int:
        """V."""
        return len(self.row_of_word)

    @cached_property
    def word_at_cell(self) -> IntArray:
        """Word in each cell, int32 [R, C]; `SPARE` where there is none."""
        words = np.full((self.num_rows, self.num_columns), SPARE, dtype=np.int32)
        words[self.row_of_word, self.column_of_word] = np.arange(self.num_words, dtype=np.int32)
        words.setflags(write=False)
        return words

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shape and every word's cell: equal for equal tables only."""
        digest = hashlib.sha256(f"{self.num_rows}x{self.num_columns}".encode())
        digest.update(self.row_of_word.astype("<i4").tobytes())
        digest.update(self.column_of_word.astype("<i4").tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordTable) and self.fingerprint == other.fingerprint

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: Path) -> None:
        """Write the table as an Arrow IPC file: `row` and `column`, one line a word in id order."""
        schema = pa.schema(
            [("row", pa.int32()), ("column", pa.int32())],
            metadata={
                "num_rows": str(self.num_rows),
                "num_columns": str(self.num_columns),
                "fingerprint": self.fingerprint,
            },
        )
        columns = [pa.array(self.row_of_word), pa.array(self.column_of_word)]
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))

    @classmethod
    def load(cls, path: Path) -> "WordTable":
        """Read what `save` wrote.

        Raises:
            WordTableError: the file is missing, damaged, or not a word table.
        """
        try:
            with pa.OSFile(str(path), "rb") as source:
                content = pa.ipc.open_file(source).read_all()
            column_names = content.column_names
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise WordTableError(f"{path} cannot be read as a word table: {error}") from error
        metadata = content.schema.metadata or {}
        if column_names != ["row", "column"] or not metadata.keys() >= _METADATA_KEYS:
            raise WordTableError(
                f"{path} has the columns {column_names}, expected a word table "
                "with row and column, its shape and its fingerprint"
            )
        num_rows, num_columns = metadata[b"num_rows"], metadata[b"num_columns"]
        if not (num_rows.isdigit() and num_columns.isdigit()):
            raise WordTableError(
                f"{path} is damaged: its shape is {num_rows!r} x {num_columns!r}, "
                "expected two numbers"
            )
        cells = content["row"].to_numpy(), content["column"].to_numpy()
        try:
            table = cls(*cells, int(num_rows), int(num_columns))
        except WordTableError as error:
            raise WordTableError(f"{path} is no word table: {error}") from error
        if table.fingerprint.encode() != metadata[b"fingerprint"]:
            raise WordTableError(f"{path} is damaged: its cells do not match its fingerprint")
        return table


def check_capacity(num_words: int, num_rows: int, num_columns: int) -> None:
    """Raise `WordTableError` where V words have no room in R x C cells."""
    if num_rows < 1 or num_columns < 1:
        raise WordTableError(
            f"a table of {num_rows} rows and {num_columns} columns has no cells, expected at "
            "least 1 of each; change table.num_rows or table.num_columns"
        )
    if num_rows * num_columns < num_words:
        raise WordTableError(
            f"{num_words} words do not fit into {num_rows} x {num_columns} = "
            f"{num_rows * num_columns} cells; raise table.num_rows or table.num_columns"
        )
