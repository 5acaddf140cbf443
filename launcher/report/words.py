"""Find the words worth showing: which moved, and who shares a row or column with whom.

Legend: V words, R rows, C columns. Only the words shown are ever turned into Python strings.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from launcher.report.run_data import ReportError
from lightrnn.table import SPARE, WordTable

Axis = Literal["row", "column"]
IdArray = npt.NDArray[np.int64]

NUM_LINES = 12
"""Rows, and columns, shown of the current table."""
NUM_WORDS_OF_LINE = 15
"""Words shown of each of them."""
NUM_MOVED = 20
"""Words shown of each reallocation."""
NUM_NEIGHBOURS = 6
"""Words shown to say what a row or column is about."""


@dataclass(frozen=True)
class Vocabulary:
    """The words with their counts, kept in Arrow.

    Attributes:
        counts: running words of each word, int64 [V].
        words: Arrow strings [V].
    """

    counts: IdArray
    words: Any

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Map a vocabulary file into memory.

        Raises:
            ReportError: the file is damaged or has other columns.
        """
        try:
            content = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise ReportError(
                f"{path} cannot be read as a vocabulary: {error}; copy it again from the corpus"
            ) from error
        if not {"word", "count"} <= set(content.column_names):
            raise ReportError(
                f"{path} has the columns {content.column_names}, expected word and count; "
                "copy it again from the corpus"
            )
        return cls(content["count"].to_numpy().astype(np.int64), content["word"])

    def texts(self, ids: npt.ArrayLike) -> list[str]:
        """Return the words with these ids."""
        taken: list[str] = self.words.take(pa.array(np.asarray(ids, dtype=np.int64))).to_pylist()
        return taken

    def most_frequent(self, ids: npt.ArrayLike, limit: int) -> IdArray:
        """Return at most `limit` of these ids, most frequent word first."""
        ids = np.asarray(ids, dtype=np.int64)
        return ids[np.argsort(-self.counts[ids], kind="stable")[:limit]]


@dataclass(frozen=True)
class Line:
    """A row or column of the table: its number, words, share of the running words."""

    index: int
    num_words: int
    share: float
    words: list[str]


@dataclass(frozen=True)
class MovedWord:
    """A word that a reallocation moved, and the words it left and joined along `axis`."""

    word: str
    count: int
    old_cell: tuple[int, int]
    new_cell: tuple[int, int]
    axis: Axis
    old_neighbours: list[str]
    new_neighbours: list[str]


@dataclass(frozen=True)
class TableChange:
    """From one saved table to the next: how many words moved, and the most frequent of them."""

    old_version: int
    new_version: int
    num_moved: int
    moved: list[MovedWord]


@dataclass(frozen=True)
class RestlessWord:
    """A word that moved in many reallocations, where it is now, and who is in its row."""

    word: str
    count: int
    num_moves: int
    cell: tuple[int, int]
    neighbours: list[str]


@dataclass(frozen=True)
class TableHistory:
    """The tables of a run, as words; `restless` only after two changes."""

    version: int
    table: WordTable
    changes: list[TableChange]
    restless: list[RestlessWord]


def read_history(table_paths: Mapping[int, Path], vocabulary: Vocabulary) -> TableHistory | None:
    """Go through the tables from the oldest to the newest, two at a time in memory.

    Raises:
        ReportError: a table is not one of this vocabulary.
        WordTableError: a table cannot be read.
    """
    num_moves = np.zeros(len(vocabulary.counts), dtype=np.int64)
    changes: list[TableChange] = []
    current: tuple[int, WordTable] | None = None
    for version, path in table_paths.items():
        table = WordTable.load(path)
        if table.num_words != len(num_moves):
            raise ReportError(
                f"{path} places {table.num_words} words, expected the {len(num_moves)} of "
                "vocabulary.arrow; put the run's own table and vocabulary back"
            )
        if current:
            has_moved = cell_numbers(current[1]) != cell_numbers(table)
            num_moves += has_moved
            moved = np.flatnonzero(has_moved)
            shown = vocabulary.most_frequent(moved, NUM_MOVED)
            words = [_describe_move(int(word), current[1], table, vocabulary) for word in shown]
            changes.append(TableChange(current[0], version, len(moved), words))
        current = version, table
    if current is None:
        return None
    restless = np.lexsort((-vocabulary.counts, -num_moves))[:NUM_MOVED].tolist()
    return TableHistory(
        *current,
        changes=changes,
        restless=[
            RestlessWord(
                word=vocabulary.texts([word])[0],
                count=int(vocabulary.counts[word]),
                num_moves=int(num_moves[word]),
                cell=_cell(current[1], word),
                neighbours=_neighbours(word, "row", current[1], vocabulary),
            )
            for word in restless
            if num_moves[word] > 1
        ],
    )


def busiest_lines(table: WordTable, vocabulary: Vocabulary, axis: Axis) -> list[Line]:
    """Return the rows or columns with most running words, each with its most frequent words."""
    running_words = running_words_by_line(table, vocabulary, axis)
    total = max(running_words.sum(), 1.0)
    lines = []
    for index in np.argsort(-running_words, kind="stable")[:NUM_LINES]:
        ids = words_of_line(table, axis, int(index))
        words = vocabulary.texts(vocabulary.most_frequent(ids, NUM_WORDS_OF_LINE))
        lines.append(Line(int(index), len(ids), float(running_words[index] / total), words))
    return lines


def running_words_by_line(
    table: WordTable, vocabulary: Vocabulary, axis: Axis
) -> npt.NDArray[np.float64]:
    """Return the summed counts of each row [R] or column [C]."""
    line_of_word = table.row_of_word if axis == "row" else table.column_of_word
    num_lines = table.num_rows if axis == "row" else table.num_columns
    weights = vocabulary.counts.astype(np.float64)
    return np.bincount(line_of_word, weights=weights, minlength=num_lines).astype(np.float64)


def words_of_line(table: WordTable, axis: Axis, index: int) -> IdArray:
    """Return the ids of the words in one row or column."""
    cells = table.word_at_cell[index] if axis == "row" else table.word_at_cell[:, index]
    words: IdArray = cells[cells != SPARE].astype(np.int64)
    return words


def cell_numbers(table: WordTable) -> IdArray:
    """Return each word's cell, counted row by row, int64 [V]."""
    shape = (table.num_rows, table.num_columns)
    cells: IdArray = np.ravel_multi_index((table.row_of_word, table.column_of_word), shape)
    return cells


def _cell(table: WordTable, word: int) -> tuple[int, int]:
    return int(table.row_of_word[word]), int(table.column_of_word[word])


def _neighbours(word: int, axis: Axis, table: WordTable, vocabulary: Vocabulary) -> list[str]:
    """Return the most frequent other words in this word's row or column."""
    ids = words_of_line(table, axis, _cell(table, word)[0 if axis == "row" else 1])
    return vocabulary.texts(vocabulary.most_frequent(ids[ids != word], NUM_NEIGHBOURS))


def _describe_move(
    word: int, before: WordTable, after: WordTable, vocabulary: Vocabulary
) -> MovedWord:
    """Tell one move; a word that stayed in its row is told by its columns."""
    old_cell, new_cell = _cell(before, word), _cell(after, word)
    axis: Axis = "row" if old_cell[0] != new_cell[0] else "column"
    return MovedWord(
        word=vocabulary.texts([word])[0],
        count=int(vocabulary.counts[word]),
        old_cell=old_cell,
        new_cell=new_cell,
        axis=axis,
        old_neighbours=_neighbours(word, axis, before, vocabulary),
        new_neighbours=_neighbours(word, axis, after, vocabulary),
    )
