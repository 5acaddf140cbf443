"""Folders that all ranks write together: on the disk as a whole, or not there at all.

A marker, written last by rank 0 after all ranks have agreed that their files are on the disk, makes
a folder valid; only then does it take its name.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException

from allocation import Communicator, run_together
from allocation.collectives import gather_texts
from data_shards.files import sha256_of, sync_file, sync_folder
from launcher.run_dir import RunError, replace_file
from lightrnn import LightRNNError

Files = dict[str, dict[str, Any]]
"""Bytes and SHA-256 of files, by their path in the folder."""


def write_whole_folder(
    final: Path,
    write: Callable[[Path], Sequence[Path]],
    marker: str,
    describe: Callable[[Files], object],
    communicator: Communicator,
) -> None:
    """Write a folder that is valid by its marker; called by all ranks.

    Args:
        final: the folder's name, which no valid folder has yet.
        write: writes this rank's files into the folder given to it, and returns their paths.
        marker: name of the file that makes the folder valid.
        describe: returns what the marker says, as JSON, given all ranks' files.
        communicator: all ranks.

    Raises:
        LightRNNError: on every rank, where any cannot write; what was written is removed.
    """
    unfinished = final.with_name(f".{final.name}.tmp")
    is_root = communicator.rank == 0

    def begin() -> None:
        if is_root:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)

    def write_own() -> str:
        paths = write(unfinished)
        for path in paths:
            sync_file(path)
        return json.dumps({str(path.relative_to(unfinished)): _describe(path) for path in paths})

    def finish(files: Files) -> None:
        if is_root:
            replace_file(unfinished / marker, json.dumps(describe(files), indent=1).encode())
            for folder, _, _ in os.walk(unfinished):
                sync_folder(Path(folder))
            _take_name(unfinished, final, marker)

    def together(action: Callable[[], str | None]) -> str | None:
        with _telling_what_cannot_be_written(final):
            return action()

    try:
        run_together(lambda: together(begin), communicator)
        own = run_together(lambda: together(write_own), communicator)
        all_files: Files = {}
        for text in gather_texts(own or "", communicator):
            all_files |= json.loads(text)
        run_together(lambda: together(lambda: finish(all_files)), communicator)
    except LightRNNError:
        if is_root:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _take_name(unfinished: Path, final: Path, marker: str) -> None:
    if (final / marker).exists():
        raise RunError(
            f"{final} is there already, expected that only this run writes it; end the other "
            "processes that train in this run directory, and start again"
        )
    shutil.rmtree(final, ignore_errors=True)
    unfinished.replace(final)
    sync_folder(final.parent)


def find_damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the first file is that is not as it was written; empty where all are."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        try:
            found = _describe(path)
        except OSError as error:
            return f"{path} is damaged: it cannot be read ({error.strerror})"
        if found != expected:
            return (
                f"{path} is damaged: {found['bytes']} bytes with SHA-256 "
                f"{found['sha256'][:12]}..., expected {expected['bytes']} with "
                f"{expected['sha256'][:12]}..."
            )
    return ""


def remove_whole_folder(folder: Path, marker: str) -> None:
    """Remove a folder; without its marker it is nothing, however far the removal gets."""
    (folder / marker).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


@contextmanager
def _telling_what_cannot_be_written(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, CheckpointException) as error:
        raise RunError(
            f"{folder} cannot be written ({_reason(error)}), expected room and permission for it; "
            "mend that and start again, which goes on from the checkpoint before"
        ) from error


def _reason(error: BaseException) -> str:
    """Return why something could not be written, as the system says it where it does."""
    if isinstance(error, CheckpointException) and error.failures:
        error, _ = next(iter(error.failures.values()))
    cause = error if isinstance(error, OSError) else error.__cause__ or error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return " ".join(str(error).split())[-200:]
