"""Inputs to spans: which files there are, and how they are cut for workers that share nothing.

The plan follows from the inputs, their sizes and the wanted size of a span, not from the number of
workers. Plain text and JSON lines are cut anywhere, and read from line start to line start; Parquet
is cut between row groups, Arrow between record batches, a `datasets` object between rows. CSV and
compressed text are read as a whole.
"""

import glob
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from data_shards.columns import path_of_column, read_rows
from data_shards.delimited import read_csv, read_json_lines
from data_shards.errors import CorpusError
from data_shards.spans import (
    COMPRESSION,
    KIND_OF_SUFFIX,
    PIECE_BYTES,
    Part,
    Piece,
    Span,
    is_known,
    kind_of,
    readable,
)
from data_shards.tables import (
    num_record_batches,
    num_row_groups,
    read_arrow,
    read_dataset,
    read_parquet,
)
from data_shards.text import read_text
from data_shards.words import TextOptions

__all__ = [
    "PIECE_BYTES",
    "STANDARD_INPUT",
    "Part",
    "Piece",
    "Source",
    "Span",
    "TextOptions",
    "plan_spans",
    "read_pieces",
]

STANDARD_INPUT = "-"

Source: TypeAlias = Path | str | object
"""An input: a path, a pattern, `-`, or a `datasets` object."""

GLOB_CHARACTERS = "*?["

ROWS_OF_KIND = {
    "jsonl": read_json_lines,
    "csv": read_csv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "dataset": read_dataset,
}


def plan_spans(
    inputs: Sequence[Source],
    option: str,
    options: TextOptions,
    span_bytes: int,
    spool: Path | None = None,
) -> list[Span]:
    """Find the input files and cut them into spans of about `span_bytes`.

    Args:
        inputs: in reading order: files; folders, of which all files with known suffixes are read,
            sorted by path, without hidden ones; patterns such as `data/**/*.jsonl.zst`; `-` for
            standard input; folders that `datasets` saved; `datasets` objects.
        option: the option to name in errors, `--train` for instance.
        options: how text becomes words, which column among it.
        span_bytes: the wanted size of a span; large files are cut, small ones joined.
        spool: the folder that gets a copy of standard input, which can be read once only.

    Raises:
        CorpusError: an input is not there, is empty, or cannot be read.
    """
    if span_bytes < 1:
        raise CorpusError(f"span_bytes={span_bytes}, expected at least 1")
    parts = (
        part
        for given in inputs
        for part in parts_of_input(given, option, options, span_bytes, spool)
    )
    return list(joined_spans(parts, span_bytes))


def read_pieces(
    span: Span, options: TextOptions, option: str, piece_bytes: int = PIECE_BYTES
) -> Iterator[Piece]:
    """Read a span as pieces of about `piece_bytes` bytes, one after another.

    Args:
        span: what to read.
        options: how text becomes words.
        option: the option to name in errors, `--train` for instance.
        piece_bytes: the size of a piece; a single word may not be longer.

    Raises:
        CorpusError: a file cannot be read, has changed since it was planned, or holds what cannot
            be words.
    """
    waiting: list[Piece] = []
    num_bytes = 0
    for part in span.parts:
        with readable(part, option):
            for piece in pieces_of_part(part, options, option, piece_bytes):
                num_bytes += len(piece.text)
                if waiting and (num_bytes > piece_bytes or piece.records != waiting[0].records):
                    yield joined_pieces(waiting)
                    waiting, num_bytes = [], len(piece.text)
                waiting.append(piece)
    if waiting:
        yield joined_pieces(waiting)


def pieces_of_part(
    part: Part, options: TextOptions, option: str, piece_bytes: int
) -> Iterator[Piece]:
    """Read one part by the reader of its kind."""
    if part.kind == "text":
        return read_text(part, options, option, piece_bytes)
    rows = ROWS_OF_KIND[part.kind](part, options, option, piece_bytes)
    return read_rows(rows, options, option, piece_bytes)


def joined_pieces(pieces: list[Piece]) -> Piece:
    """Return consecutive pieces as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Piece(b"".join(piece.text for piece in pieces), pieces[0].records)


def joined_spans(parts: Iterable[Part], span_bytes: int) -> Iterator[Span]:
    """Join consecutive parts as long as they fit a span."""
    waiting: list[Part] = []
    num_bytes = 0
    for part in parts:
        num_bytes += part.num_bytes
        if waiting and num_bytes > span_bytes:
            yield Span(tuple(waiting))
            waiting, num_bytes = [], part.num_bytes
        waiting.append(part)
    if waiting:
        yield Span(tuple(waiting))


def parts_of_input(
    given: Source,
    option: str,
    options: TextOptions,
    span_bytes: int,
    spool: Path | None,
) -> Iterator[Part]:
    """Yield the parts of one input."""
    if not isinstance(given, Path | str):
        yield from parts_of_dataset(given, option, options, span_bytes)
        return
    if str(given) == STANDARD_INPUT:
        paths = [copy_standard_input(spool, option)]
    else:
        try:
            paths = list(files_of(str(given), option))
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise CorpusError(f"{given} cannot be read ({error}); change {option}") from error
    for path in paths:
        yield from parts_of_file(path, option, span_bytes)


def copy_standard_input(spool: Path | None, option: str) -> Path:
    """Copy standard input to a file, named by the option, and return it."""
    if spool is None:
        raise CorpusError(
            "standard input was given without a folder to keep it in, expected files; "
            f"change {option}"
        )
    path = spool / f"standard-input-{option.strip('-')}"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, PIECE_BYTES)
    return path


def files_of(given: str, option: str) -> Iterator[Path]:
    """Yield the files that a path or pattern stands for.

    Raises:
        CorpusError: there are none.
    """
    path = Path(given)
    if path.is_dir():
        found = list(files_in(path, option))
        if not found:
            suffixes = ", ".join([*KIND_OF_SUFFIX, *COMPRESSION])
            raise CorpusError(
                f"{path} holds no files that end in {suffixes}, expected one or more; change "
                f"{option}, or give a pattern such as {path}/*"
            )
        yield from found
    elif path.is_file():
        yield path
    elif path.exists():
        raise CorpusError(
            f"{path} is neither a file nor a folder, expected text that can be read twice; change "
            f"{option}, or pipe the text in and give {option} {STANDARD_INPUT}"
        )
    elif any(character in given for character in GLOB_CHARACTERS):
        # Unlike Path.glob it leaves hidden files out and takes absolute patterns.
        found_by_glob = glob.glob(given, recursive=True)  # noqa: PTH207
        matches = sorted(map(Path, found_by_glob))
        found = [match for match in matches if match.is_file()]
        if not found:
            what = "folders only" if matches else "nothing"
            raise CorpusError(f"{given} matches {what}, expected a file or more; change {option}")
        yield from found
    else:
        raise CorpusError(f"{path} does not exist, expected a file or folder; change {option}")


def files_in(folder: Path, option: str) -> Iterator[Path]:
    """Yield the input files of a folder and those below, sorted by path.

    Raises:
        CorpusError: a folder of several splits, as `datasets` saves them.
    """
    if (folder / "dataset_dict.json").exists():
        splits = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
        raise CorpusError(
            f"{folder} holds the splits {', '.join(splits)}, expected one; give "
            f"{option} {folder / splits[0]}"
        )
    if (folder / "dataset_info.json").exists() and (folder / "state.json").exists():
        state = json.loads((folder / "state.json").read_bytes())
        if state.get("_indices_data_files"):
            raise CorpusError(
                f"{folder} was saved by an old version of datasets, which left its rows in "
                f"another order; load and save it again, or change {option}"
            )
        yield from (folder / file["filename"] for file in state["_data_files"])
        return
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            if path.is_dir():
                yield from files_in(path, option)
            elif path.is_file() and is_known(path):
                yield path


def parts_of_file(path: Path, option: str, span_bytes: int) -> Iterator[Part]:
    """Yield a file as a whole, or where it is large as several parts, if it can be cut."""
    kind, compression = kind_of(path)
    if compression and kind in ("parquet", "arrow"):
        raise CorpusError(
            f"{path} is compressed as a whole, expected {kind} files as they are, which compress "
            f"themselves; decompress it or change {option}"
        )
    try:
        status = path.stat()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error}); change {option}") from error
    size = status.st_size
    if not size:
        raise CorpusError(f"{path} is empty, expected at least one line of text; change {option}")
    whole = Part(path, kind, 0, None, size, size, status.st_mtime_ns)
    num_units = 1
    if size > span_bytes and not compression:
        with readable(whole, option):
            num_units = num_units_of(whole)
    num_parts = max(1, min(num_units, -(-size // span_bytes)))
    for number in range(num_parts):
        yield stretch_of(whole, number, num_parts, num_units)


def num_units_of(whole: Part) -> int:
    """Return how many units a file can be cut into: bytes, row groups or record batches."""
    match whole.kind:
        case "text" | "jsonl":
            return whole.file_bytes
        case "parquet":
            return num_row_groups(whole.path)
        case "arrow":
            return num_record_batches(whole.path)
        case _:
            return 1


def stretch_of(whole: Part, number: int, num_parts: int, num_units: int) -> Part:
    """Return part `number` of `num_parts` about equal ones of `num_units` units."""
    start, stop = (num_units * n // num_parts for n in (number, number + 1))
    first_byte, end_byte = (whole.num_bytes * n // num_parts for n in (number, number + 1))
    return replace(
        whole,
        start=start,
        stop=None if number == num_parts - 1 else stop,
        num_bytes=end_byte - first_byte,
    )


def parts_of_dataset(
    given: Any, option: str, options: TextOptions, span_bytes: int
) -> Iterator[Part]:
    """Yield the wanted column of a `datasets` object in parts of rows.

    Raises:
        CorpusError: it is another object, or has no rows or no such column.
    """
    datasets = sys.modules.get("datasets")  # where there is such an object, it is there too
    if datasets is None or not isinstance(given, datasets.Dataset):
        splits = f" of the splits {', '.join(map(str, given))}" if isinstance(given, dict) else ""
        raise CorpusError(
            f"found {type(given).__name__}{splits}, expected paths or objects of datasets.Dataset; "
            f"change {option}"
        )
    path = Path(given._fingerprint)
    if not len(given):
        raise CorpusError(f"dataset {path} has no rows, expected one or more; change {option}")
    column = path_of_column(given.features.arrow_schema, options.column, f"dataset {path}")
    dataset = given.select_columns(column[:1])
    num_bytes = dataset.data.nbytes * len(dataset) // dataset.data.num_rows
    whole = Part(path, "dataset", 0, None, num_bytes, num_bytes, 0)
    num_parts = min(len(dataset), max(1, -(-num_bytes // span_bytes)))
    for number in range(num_parts):
        part = stretch_of(whole, number, num_parts, len(dataset))
        stop = len(dataset) if part.stop is None else part.stop
        rows = dataset.select(range(part.start, stop))
        if num_parts > 1 and not dataset.cache_files:
            # A pickle of a slice in memory takes the whole along, that of a copy does not.
            taken = rows.with_format("arrow")[:].take(np.arange(len(rows)))
            rows = datasets.Dataset(taken)
        yield replace(part, dataset=rows)
