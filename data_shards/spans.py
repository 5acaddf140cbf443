"""Spans: what a worker reads, and the pieces of text it gets."""

import hashlib
import io
import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

import pyarrow as pa

from data_shards.errors import CorpusError

PIECE_BYTES = 8 << 20
"""How much text is held in memory at a time; a single word may not be longer."""

Kind = Literal["text", "jsonl", "csv", "parquet", "arrow", "dataset"]

KIND_OF_SUFFIX: dict[str, Kind] = {
    ".txt": "text",
    ".text": "text",
    ".tokens": "text",
    ".raw": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
"""What a file is by its suffix; every other one is plain text."""

COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".xz": "xz", ".bz2": "bz2"}
"""Compression by the last suffix, behind that of the kind; every other file is read as it is."""

DESCRIPTION: dict[Kind, str] = {
    "text": "text file",
    "jsonl": "file of JSON lines",
    "csv": "CSV file",
    "parquet": "Parquet file",
    "arrow": "Arrow file",
    "dataset": "dataset",
}


@dataclass(frozen=True)
class Part:
    """A file, or a stretch of one, or rows of a `datasets` object.

    Attributes:
        path: the file; for a `datasets` object its fingerprint.
        kind: how to read it.
        start: where to begin: a byte of plain text and of JSON lines, a row group of Parquet, a
            record batch of Arrow, a row of a `datasets` object.
        stop: where to end, exclusive, in the same units; None reads to the end.
        num_bytes: about how much of the disk it takes, for progress.
        file_bytes: the size of the whole file when it was planned.
        mtime_ns: when the file was last written.
        dataset: the `datasets` object, of these rows only.
    """

    path: Path
    kind: Kind
    start: int
    stop: int | None
    num_bytes: int
    file_bytes: int
    mtime_ns: int
    dataset: Any = field(default=None, compare=False, repr=False)

    @property
    def identity(self) -> list[str | int | None]:
        """What tells this part from any other, and from itself after its file was changed."""
        path = self.path if self.kind == "dataset" else self.path.absolute()
        return [str(path), self.kind, self.start, self.stop, self.file_bytes, self.mtime_ns]

    def place_of_row(self, first: int, index: int) -> str:
        """Say, counting from 1, which row the one `index` behind row `first` is."""
        return f"{self}, row {first + index + 1}"

    def __str__(self) -> str:
        return f"dataset {self.path}" if self.kind == "dataset" else str(self.path)


@dataclass(frozen=True)
class Span:
    """Consecutive parts, read in order by one worker."""

    parts: tuple[Part, ...]

    @property
    def num_bytes(self) -> int:
        """Size on the disk, for progress."""
        return sum(part.num_bytes for part in self.parts)

    @property
    def identity(self) -> str:
        """SHA-256 of which files and stretches these are, with their sizes and times."""
        content = json.dumps([part.identity for part in self.parts])
        return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, eq=False)
class Piece:
    """Some text of a span.

    Attributes:
        text: valid UTF-8 with words between ASCII blanks, no word cut; it ends in a blank. Every
            `\\n` ends a row, that is one `<eos>`.
        records: whether rows are records, which may hold several lines: then `\\v` ends a line
            inside the row. Otherwise it is a blank like the others.
    """

    text: bytes
    records: bool


def kind_of(path: Path) -> tuple[Kind, str | None]:
    """Return what a file is and how it is compressed, by its suffixes."""
    compression = COMPRESSION.get(path.suffix.lower())
    inner = path.with_suffix("") if compression else path
    return KIND_OF_SUFFIX.get(inner.suffix.lower(), "text"), compression


def is_known(path: Path) -> bool:
    """Whether a file's suffix says that it is an input, as for files found in a folder."""
    return path.suffix.lower() in KIND_OF_SUFFIX.keys() | COMPRESSION.keys()


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, decompressed where its suffix says that it is compressed."""
    compression = COMPRESSION.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    if compression == "xz":
        return lzma.open(path)
    stream = pa.input_stream(str(path), compression=compression)
    return io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20)


@contextmanager
def readable(part: Part, option: str) -> Iterator[None]:
    """Turn every failure to read a file into a `CorpusError`, and a change of it meanwhile too."""
    try:
        check_unchanged(part, option)
        yield
        check_unchanged(part, option)
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        _, compression = kind_of(part.path)
        wanted = f"{compression} file" if compression else DESCRIPTION[part.kind]
        raise CorpusError(
            f"{part} cannot be read to its end ({error}), expected a whole and readable {wanted}; "
            f"change {option}"
        ) from error


def check_unchanged(part: Part, option: str) -> None:
    """Raise `CorpusError` where a file is not the one that was planned."""
    if part.kind != "dataset":
        status = part.path.stat()
        if (status.st_size, status.st_mtime_ns) != (part.file_bytes, part.mtime_ns):
            raise CorpusError(
                f"{part} changed while it was read: {status.st_size} bytes, expected the "
                f"{part.file_bytes} found before, untouched; give {option} files that nobody "
                "writes to"
            )
