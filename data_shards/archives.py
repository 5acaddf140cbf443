"""Archives: some members of a zip or a tar, written under names of our own."""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, cast

from data_shards.errors import CorpusError
from data_shards.files import whole_file
from data_shards.pool import Report

COPY_BYTES = 1 << 20

DAMAGES = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)


@dataclass(frozen=True)
class Member:
    """A member of an archive: its path, whether it is a plain file, its size, how to open it.

    What is read of it is never longer than its size.
    """

    path: str
    is_file: bool
    num_bytes: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, wanted: Mapping[str, Path], max_bytes: int, report: Report) -> None:
    """Write the wanted members of an archive; those that are there already are kept.

    Args:
        archive: a `.zip` file, or a tar file under any compression that `tarfile` reads.
        wanted: where each wanted member goes, by its path in the archive. Other members are not
            written.
        max_bytes: the wanted members may hold so many bytes together.
        report: called with a line of text for each member.

    Raises:
        CorpusError: the archive is damaged, lacks a wanted member, holds a link in its place or
            more bytes than allowed, or has a member whose path leads out of the archive.
        OSError: a member cannot be written.
    """
    missing = dict(wanted)
    num_bytes = 0
    try:
        for member in members_of(archive):
            check_inside(member, archive)
            path = missing.pop(str(PurePosixPath(member.path)), None)
            if path is None:
                continue
            if not member.is_file:
                raise CorpusError(
                    f"{archive}: {member.path} is a link or a folder, expected a file"
                )
            num_bytes += member.num_bytes
            if num_bytes > max_bytes:
                raise CorpusError(
                    f"{archive}: {member.path} makes it {num_bytes:,} bytes of text, expected at "
                    f"most {max_bytes:,}"
                )
            if not path.exists():
                report(f"unpacking {member.path}")
                path.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, whole_file(path) as file:
                    shutil.copyfileobj(source, file, COPY_BYTES)
    except DAMAGES as error:
        raise CorpusError(
            f"{archive} is damaged ({error}), expected a whole archive; start again to fetch it"
        ) from error
    if missing:
        raise CorpusError(
            f"{archive} lacks {min(missing)}"
            + (f" and {len(missing) - 1} more of its texts" if len(missing) > 1 else "")
        )


def check_inside(member: Member, archive: Path) -> None:
    """Raise `CorpusError` where a member's path is absolute or climbs."""
    path = PurePosixPath(member.path)
    if path.is_absolute() or ".." in path.parts:
        raise CorpusError(f"{archive}: the path {member.path} leads out of the archive")


def members_of(archive: Path) -> Iterator[Member]:
    """Yield the members of an archive; each has to be read before the next is asked for."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zip_file:
            for info in zip_file.infolist():
                is_file = not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
                yield Member(info.filename, is_file, info.file_size, partial(zip_file.open, info))
    else:
        with tarfile.open(archive) as tar_file:
            for entry in tar_file:
                # None is what it returns for what is not a file, and that is never opened.
                open_entry = cast(Callable[[], IO[bytes]], partial(tar_file.extractfile, entry))
                yield Member(entry.name, entry.isreg(), entry.size, open_entry)
