"""Files that are whole when they are there: checksummed while written, on the disk when closed."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import pyarrow as pa

HASH_CHUNK_BYTES = 1 << 22


class HashedFile:
    """A new file, written from front to back, that knows its SHA-256 and size in bytes.

    Leaving the `with` block flushes it to the disk. It is file enough for pyarrow to write to.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, content: bytes | memoryview | pa.Buffer) -> int:
        """Append bytes."""
        content = memoryview(content)
        self._file.write(content)
        self._digest.update(content)
        self.num_bytes += content.nbytes
        return content.nbytes

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self.num_bytes

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush to the disk and close."""
        if not self.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    @property
    def closed(self) -> bool:
        """Whether the file is closed."""
        return self._file.closed

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written, in hexadecimal."""
        return self._digest.hexdigest()

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


@contextmanager
def arrow_file(
    path: Path, schema: pa.Schema
) -> Iterator[tuple[HashedFile, pa.RecordBatchFileWriter]]:
    """Open a new, uncompressed Arrow IPC file; its checksum and size are final after the block."""
    with (
        HashedFile(path) as file,
        pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema) as writer,
    ):
        yield file, writer


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes its name when the block has ended well and it is on disk.

    Until then it is `NAME.part`; one that was left behind is written anew.
    """
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def sync_file(path: Path) -> None:
    """Make what was written to a file last."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make a folder's entries last: a new or renamed file in it outlives a crash."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
