"""Columns of records as text: a record is a row, whatever file it stands in.

Text is split by the tokenizer. Lists of strings are words as they are, and integers are words of
their decimal digits: events, items, products.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from data_shards.errors import CorpusError
from data_shards.spans import Piece
from data_shards.text import end_of_words
from data_shards.words import REPLACEMENT, BadBytes, TextOptions, checked, joined, rewritten

LISTS_OF_STRINGS = pa.large_list(pa.large_string())
WORD = r"^[^ \t\n\r\v\f]+$"
HAS_BLANK = re.compile(rb"[ \t\n\r\v\f]")

DEFAULT_COLUMN = "text"
NUM_NAMES_SHOWN = 20

END_OF_ROW = bytes.maketrans(b"\v\n\0", b" \v\n")
"""Records stand between NUL bytes until ends of lines inside them have become `\\v`."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The wanted column of some consecutive records.

    Attributes:
        values: the column.
        place: says which record the one at a place in `values` is, for errors.
    """

    values: pa.Array
    place: Callable[[int], str]


def choose_column(names: list[str], column: str | None, where: object) -> str:
    """Return the column to read: the one asked for, else `text`, else the only one.

    Raises:
        CorpusError: there is no such column, or it stands there twice.
    """
    wanted = column or (names[0] if len(names) == 1 else DEFAULT_COLUMN)
    if names.count(wanted) != 1:
        shown = ", ".join(names[:NUM_NAMES_SHOWN]) + (", ..." if names[NUM_NAMES_SHOWN:] else "")
        raise CorpusError(
            f"{where} has the columns {shown or 'of nothing'}, expected one named {wanted}; "
            "give the one to read by --column"
        )
    return wanted


def path_of_column(schema: pa.Schema, column: str | None, where: object) -> list[str]:
    """Return the column to read and, below it, the fields of a structure: `translation.en`.

    Raises:
        CorpusError: there is no such column.
    """
    path = column.split(".") if column else []
    if len(path) > 1 and column not in schema.names and leads_to_field(schema, path):
        return path
    return [choose_column(schema.names, column, where)]


def leads_to_field(parent: pa.Schema | pa.StructType, path: list[str]) -> bool:
    """Whether a schema or structure has a field, with fields below it, of these names."""
    if parent.get_field_index(path[0]) < 0:
        return False
    kind = parent.field(path[0]).type
    return len(path) == 1 or (pt.is_struct(kind) and leads_to_field(kind, path[1:]))


def column_at(batch: pa.RecordBatch, path: list[str]) -> pa.Array:
    """Return the column, or field of one, that `path_of_column` found."""
    values = batch.column(path[0])
    for name in path[1:]:
        values = pc.struct_field(values, name)
    return values


def read_rows(
    rows: Iterable[Rows], options: TextOptions, option: str, piece_bytes: int
) -> Iterator[Piece]:
    """Turn records into pieces of about `piece_bytes` bytes.

    Raises:
        CorpusError: a record is null, or holds something else than text, integers or lists of
            either, or bad characters, or a word that is longer than a piece, or a word given by
            itself is empty or holds a blank.
    """
    for some in rows:
        mean_bytes = some.values.nbytes // max(1, len(some.values)) + 1
        num_rows = max(1, piece_bytes // mean_bytes)
        for start in range(0, len(some.values), num_rows):
            values = some.values.slice(start, num_rows)
            place = partial(place_after, some.place, start)
            yield from pieces_of(Rows(values, place), options, option, piece_bytes)


def place_after(place: Callable[[int], str], start: int, index: int) -> str:
    """Say which record the one at `index` behind `start` is."""
    return place(start + index)


def pieces_of(rows: Rows, options: TextOptions, option: str, piece_bytes: int) -> Iterator[Piece]:
    """Turn a few records into pieces: one, or more where a record is long."""
    text = text_of_rows(rows, options.on_bad_bytes, option)
    tokenized = not is_text(rows.values.type)
    begin = 0
    while begin < len(text):
        end = min(begin + piece_bytes, len(text))
        if end < len(text):
            end = text.rfind(b"\n", begin, end) + 1 or end_of_words(text, begin, end)
        if not end:
            raise CorpusError(
                f"{place_in_rows(rows, text, begin, 0)}: {piece_bytes} bytes hold no blank, "
                f"expected text with words separated by blanks; change {option}"
            )
        place = partial(place_in_rows, rows, text, begin)
        piece = checked(text[begin:end], options.on_bad_bytes, place, option)
        yield Piece(rewritten(piece, options, tokenized=tokenized), records=True)
        begin = end


def place_in_rows(rows: Rows, text: bytes, begin: int, at: int) -> str:
    """Say which record byte `begin + at` of the records' text belongs to."""
    return rows.place(text.count(b"\n", 0, begin + at))


def text_of_rows(rows: Rows, on_bad_bytes: BadBytes, option: str) -> bytes:
    """Return a line a record; lines inside a record end in `\\v`, and the last one with it."""
    texts = strings_of(rows, option)
    text = joined(texts, "\0")
    if text.count(b"\0") >= len(texts):
        if on_bad_bytes == "error":
            index = pc.index(pc.match_substring(texts, "\0"), True).as_py()
            raise CorpusError(
                f"{rows.place(index)} holds a NUL character, expected text; change {option}, or "
                "give --on-bad-bytes replace"
            )
        text = joined(pc.replace_substring(texts, "\0", REPLACEMENT), "\0")
    return (text + b"\0").replace(b"\n\0", b"\0").translate(END_OF_ROW)


def strings_of(rows: Rows, option: str) -> pa.Array:
    """Return a string a record, words given by themselves with blanks between them."""
    kind = rows.values.type
    if not is_usable(kind):
        raise CorpusError(
            f"{rows.place(0)} is of the type {kind}, expected text, integers, or lists of either; "
            "give another column by --column"
        )
    strings = rows.values.cast(LISTS_OF_STRINGS if is_list(kind) else pa.large_string())
    if strings.null_count:
        index = pc.index(strings.is_null(), True).as_py()
        raise CorpusError(
            f"{rows.place(index)} is null, expected a value in every record; change {option}"
        )
    if not is_list(kind):
        return strings
    check_words(Rows(strings, rows.place), option)
    return pc.binary_join(strings, pa.scalar(" ", pa.large_string()))


def check_words(rows: Rows, option: str) -> None:
    """Raise `CorpusError` where a word of the lists is null or empty or holds a blank."""
    words = rows.values.flatten()
    if not words.null_count and not HAS_BLANK.search(joined(words, "")):
        lengths = pc.binary_length(words)
        if pc.min(lengths).as_py() != 0:
            return
    is_word = pc.match_substring_regex(words, WORD).fill_null(False)
    index = pc.index(is_word, False).as_py()
    found = "null" if words[index].as_buffer() is None else f"the word {words[index].as_py()!r}"
    place = rows.place(pc.list_parent_indices(rows.values)[index].as_py())
    raise CorpusError(
        f"{place} holds {found}, expected words that are not empty and hold no blank; "
        f"change {option}"
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether values are text, to be split into words."""
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values are lists."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def is_usable(kind: pa.DataType) -> bool:
    """Whether values can become words: text, integers, lists of either, and those all null."""
    kind = kind.value_type if is_list(kind) else kind
    return is_text(kind) or bool(pt.is_integer(kind) or pt.is_null(kind))
