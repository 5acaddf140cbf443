"""A known corpus as text files that `lightrnn prepare` takes: fetched, checked, unpacked."""

import fnmatch
import os
import shlex
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data_shards.errors import CorpusError
from data_shards.files import HASH_CHUNK_BYTES, sync_folder
from data_shards.known_corpora import Download, KnownCorpus
from data_shards.transfer import Report, Unreachable, checksum_of, fetch

SUMS_FILE = "SHA256SUMS"
"""Checksums of all files, written last: with it a folder is whole."""


def download_corpus(
    corpus: KnownCorpus,
    output: Path,
    *,
    mirror: str = "",
    keep_archive: bool = False,
    on_progress: Report = lambda line: None,
) -> dict[str, list[Path]]:
    """Fetch a corpus into a folder; go on where an earlier try ended.

    Args:
        corpus: which.
        output: the folder, made where it is missing.
        mirror: address to look for the files at instead, without their names.
        keep_archive: whether an archive stays when it is unpacked.
        on_progress: gets a line now and then.

    Returns:
        The text files of each split.

    Raises:
        CorpusError: no address can be reached, a file is not the published one, or there is no
            room.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        if is_whole(output):
            on_progress(f"{output} holds {corpus.name} already")
        else:
            for download in corpus.downloads:
                _fetch_from_any(download, output, mirror, on_progress)
            _unpack_all(corpus, output, keep_archive, on_progress)
            _write_sums(corpus, output)
    except OSError as error:
        raise CorpusError(
            f"{output} cannot take {corpus.name} ({error}), expected room and permission to "
            "write; change --output"
        ) from error
    return {name: _files(output, pattern) for name, pattern in corpus.splits.items()}


def prepare_command(corpus: KnownCorpus, output: Path) -> str:
    """Return the command that makes a corpus folder of what was downloaded."""
    options = []
    for name, pattern in corpus.splits.items():
        # A pattern goes to `prepare` as it is, so that the line stays short.
        options.append(f"--{name} {shlex.quote(str(output / pattern))}")
    return f"lightrnn prepare {' '.join(options)} --output CORPUS"


def is_whole(output: Path) -> bool:
    """Whether a folder has all its files, each as it was written."""
    try:
        lines = (output / SUMS_FILE).read_text().splitlines()
        return bool(lines) and all(
            checksum_of(output / name, "sha256") == f"sha256:{digits}"
            for digits, _, name in (line.partition("  ") for line in lines)
        )
    except OSError:
        return False


def _fetch_from_any(download: Download, output: Path, mirror: str, on_progress: Report) -> None:
    path = output / download.name
    if path.exists():
        return
    bases = (f"{mirror.rstrip('/')}/",) if mirror else download.bases
    failures = []
    for base in bases:
        on_progress(f"fetching {base}{download.name}")
        try:
            fetch(base + download.name, path, download.checksum, on_progress)
            return
        except Unreachable as failure:
            failures.append(str(failure))
    raise CorpusError(f"{'; '.join(failures)}; check the network, or give another --mirror")


def _unpack_all(corpus: KnownCorpus, output: Path, keep_archive: bool, on_progress: Report) -> None:
    for download in corpus.downloads:
        if not download.is_archive:
            continue
        archive = output / download.name
        room = corpus.most_bytes
        try:
            for name, content in _members(archive):
                if any(fnmatch.fnmatchcase(name, one) for one in corpus.splits.values()):
                    on_progress(f"unpacking {name}")
                    room -= _unpack(content, output / name, room)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise CorpusError(
                f"{archive} cannot be unpacked ({error}); remove it and start again"
            ) from error
        missing = [name for name, one in corpus.splits.items() if not _files(output, one)]
        if missing:
            raise CorpusError(
                f"{archive} has no file for {', '.join(missing)}, expected "
                f"{', '.join(corpus.splits[name] for name in missing)}; give another --mirror"
            )
        if not keep_archive:
            archive.unlink()


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield names and contents of an archive's regular files; links and folders are left out."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as zipped:
            for member in zipped.infolist():
                with zipped.open(member) as content:
                    yield member.filename.removeprefix("./"), content
        return
    with tarfile.open(archive, "r|gz") as tar:
        for entry in tar:
            if entry.isreg() and (extracted := tar.extractfile(entry)) is not None:
                yield entry.name.removeprefix("./"), extracted


def _unpack(content: IO[bytes], path: Path, room: int) -> int:
    """Write a file of an archive; return its size.

    A name reaches this only if a pattern of ours matches it, and no pattern lets `/` or `..` in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = 0
    with _new_file(path) as file:
        while chunk := content.read(HASH_CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > room:
                raise CorpusError(
                    f"{path.name} and the files before take more bytes than the published ones; "
                    "give another --mirror"
                )
            file.write(chunk)
    return num_bytes


def _write_sums(corpus: KnownCorpus, output: Path) -> None:
    files = [path for pattern in corpus.splits.values() for path in _files(output, pattern)]
    with _new_file(output / SUMS_FILE) as file:
        for path in files:
            digits = checksum_of(path, "sha256").removeprefix("sha256:")
            file.write(f"{digits}  {path.relative_to(output).as_posix()}\n".encode())


def _files(output: Path, pattern: str) -> list[Path]:
    return sorted(output.glob(pattern))


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write that takes its name when it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
