"""JSON lines and CSV: records that stand in lines of text."""

import csv
import json
import re
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from data_shards.columns import Rows, choose_column, is_usable
from data_shards.errors import CorpusError
from data_shards.spans import Part
from data_shards.text import line_blocks, line_number, place_in_text
from data_shards.words import REPLACEMENT, BadBytes, TextOptions, checked

LARGEST_CELL_CHARACTERS = 1 << 28
"""A quotation mark that is never closed ends here at the latest."""

FIRST_BLOCK_BYTES = 1 << 16

SURROGATE = re.compile("[\ud800-\udfff]")


def read_json_lines(
    part: Part, options: TextOptions, option: str, block_bytes: int
) -> Iterator[Rows]:
    """Read a column of JSON lines: of one object a line. Lines of blanks are passed over.

    Each value is looked at by itself: other columns may vary from line to line, and so may the
    type of this one.

    Raises:
        CorpusError: a line is no JSON object or lacks the column.
    """
    column = options.column or default_key(part, options, option)
    for offset, lines in checked_lines(part, options, option, block_bytes):
        place = partial(place_of_line, part, offset)
        numbers = [number for number, line in enumerate(lines) if line and not line.isspace()]
        values = []
        for number in numbers:
            place_of_record = partial(place, number)
            record = object_of(lines[number], place_of_record, option)
            values.append(value_at(record, column, place_of_record, option))
        place_of_index = partial(place_of_value, place, numbers)
        yield from rows_of(values, place_of_index, options.on_bad_bytes, option)


def default_key(part: Part, options: TextOptions, option: str) -> str:
    """Return the column that is read unless one is given, by the file's first object."""
    for _, lines in checked_lines(
        replace(part, start=0, stop=None), options, option, FIRST_BLOCK_BYTES
    ):
        for number, line in enumerate(lines):
            if line and not line.isspace():
                place = partial(place_of_line, part, 0, number)
                return choose_column(list(object_of(line, place, option)), None, place())
    return ""


def checked_lines(
    part: Part, options: TextOptions, option: str, block_bytes: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield whole lines, without their ends, and the place in bytes of the first of them."""
    for offset, block in line_blocks(part, option, block_bytes, cut_lines=False):
        place = partial(place_in_text, part, offset)
        text = checked(block, options.on_bad_bytes, place, option)
        yield offset, text[:-1].decode().split("\n")


def place_of_line(part: Part, offset: int, number: int) -> str:
    """Say which line of the file the one `number` lines behind byte `offset` is."""
    return f"{part}, line {line_number(part.path, offset) + number}"


def place_of_value(place: Callable[[int], str], numbers: list[int], index: int) -> str:
    """Say which line of the file the value at `index` stands in, by the numbers of their lines."""
    return place(numbers[index])


def object_of(line: str, place: Callable[[], str], option: str) -> dict[str, Any]:
    """Parse one line.

    Raises:
        CorpusError: it is not a JSON object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        at = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        fault = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise CorpusError(
            f"{place()} is not JSON ({fault}{at}), expected one object a line; change {option}"
        ) from error
    if not isinstance(record, dict):
        raise CorpusError(
            f"{place()} holds a JSON {type(record).__name__}, expected one object a line; "
            f"change {option}"
        )
    return record


def value_at(record: dict[str, Any], column: str, place: Callable[[], str], option: str) -> Any:
    """Return the value of a column, or of a field of one: `translation.en`.

    Raises:
        CorpusError: the object has no such key.
    """
    if column in record:
        return record[column]
    value: Any = record
    for name in column.split("."):
        if not isinstance(value, dict) or name not in value:
            raise CorpusError(
                f"{place()} has no {column!r}, expected it in every object; change --column or "
                f"{option}"
            )
        value = value[name]
    return value


def rows_of(
    values: list[Any], place: Callable[[int], str], on_bad_bytes: BadBytes, option: str
) -> Iterator[Rows]:
    """Yield values as one array, or as one each where they are of several types.

    Raises:
        CorpusError: a value is neither null, text, an integer, nor a list of text or integers.
    """
    if not values:
        return
    array = array_of(values)
    if array is not None:
        yield Rows(array, place)
        return
    for index, value in enumerate(values):
        array = array_of([without_surrogates(value) if on_bad_bytes == "replace" else value])
        if array is None:
            raise CorpusError(
                f"{place(index)} holds {reprlib.repr(value)}, expected text, integers below "
                f"2**63, or lists of either; change {option} or --column"
            )
        yield Rows(array, partial(place_of_single, place, index))


def place_of_single(place: Callable[[int], str], index: int, _: int) -> str:
    """Say where the value at `index` stands, which is an array of its own."""
    return place(index)


def array_of(values: list[Any]) -> pa.Array | None:
    """Return values as an array, or None where they are of several types or of a wrong one."""
    try:
        array = pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return None
    return array if is_usable(array.type) else None


def without_surrogates(value: Any) -> Any:
    """Put U+FFFD for every surrogate of a string, or of the strings of a list."""
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    return SURROGATE.sub(REPLACEMENT, value) if isinstance(value, str) else value


def read_csv(part: Part, options: TextOptions, option: str, block_bytes: int) -> Iterator[Rows]:
    """Read a column of a CSV file with a header; of a `.tsv` file, with tabs.

    Cells may stand between double quotation marks, doubled inside, and then hold ends of lines.
    Every cell is text.

    Raises:
        CorpusError: the column is missing, a quotation mark stands at a wrong place, or a row has
            more or fewer cells than the header.
    """
    csv.field_size_limit(LARGEST_CELL_CHARACTERS)
    delimiter = "\t" if ".tsv" in part.path.suffixes else ","
    lines = (
        f"{line}\n"
        for _, block in checked_lines(part, options, option, block_bytes)
        for line in block
    )
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader)
        column = header.index(choose_column(header, options.column, part))
        num_rows = num_characters = 0
        cells: list[str] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise CorpusError(
                    f"{part}, line {reader.line_num}: a row of {len(row)} cells, expected "
                    f"{len(header)} as in the header; change {option}"
                )
            cells.append(row[column])
            num_characters += len(row[column])
            if num_characters >= block_bytes:
                yield Rows(pa.array(cells, pa.large_string()), partial(part.place_of_row, num_rows))
                num_rows, num_characters, cells = num_rows + len(cells), 0, []
        yield Rows(pa.array(cells, pa.large_string()), partial(part.place_of_row, num_rows))
    except csv.Error as error:
        raise CorpusError(
            f"{part}, line {reader.line_num}: no row of CSV ({error}), expected cells between "
            f"{delimiter!a}, quoted where they hold one; change {option}"
        ) from error
