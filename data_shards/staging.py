"""Copies of shards on a disk of this host, checked while they are made."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_shards.corpus import check_file
from data_shards.errors import CorpusError
from data_shards.files import HASH_CHUNK_BYTES, HashedFile, sha256_of, sync_folder
from data_shards.manifest import Shard


def stage_shards(root: Path, shards: Iterable[Shard], folder: Path) -> int:
    """Copy shards from a corpus folder to another one; whole copies that are there are kept.

    A copy gets its name when it is whole and on the disk, so several processes may do this at once.

    Args:
        root: the corpus folder.
        shards: those wanted.
        folder: gets the copies, under the same paths as in `root`; made where it is missing.

    Returns:
        Number of bytes copied.

    Raises:
        CorpusError: a shard is missing or damaged, or there is no room or no permission for a copy.
    """
    num_bytes = 0
    for shard in shards:
        try:
            if not is_whole(folder / shard.file, shard):
                _copy(root, shard, folder)
                num_bytes += shard.bytes
        except OSError as error:
            raise CorpusError(
                f"{folder} cannot take a copy of {shard.file} ({error.strerror}), expected room "
                f"for {shard.bytes} bytes and permission to write; change data.stage_dir, or leave "
                "it empty to read from data.corpus alone"
            ) from error
    return num_bytes


def is_whole(path: Path, shard: Shard) -> bool:
    """Return whether a file is there and has the size and the checksum of a shard."""
    return path.is_file() and path.stat().st_size == shard.bytes and sha256_of(path) == shard.sha256


def _copy(root: Path, shard: Shard, folder: Path) -> None:
    check_file(root, shard)
    path = folder / shard.file
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with HashedFile(temporary) as copy:
            for chunk in _chunks(root / shard.file):
                copy.write(chunk)
        if copy.sha256 != shard.sha256:
            raise CorpusError(
                f"{root / shard.file} has the SHA-256 {copy.sha256}, expected {shard.sha256}: it "
                "was changed; copy it again or prepare the corpus again"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be read ({error.strerror}); copy it again or prepare the corpus again"
        ) from error
