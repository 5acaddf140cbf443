"""The folder in which a corpus is built: hidden, resumable, and never taken for a corpus.

It lies beside the corpus to be, as `.NAME.partial`, and holds the corpus as far as it is, what the
steps leave for each other, and a note for each part that is finished. Starting the same build again
goes on from the notes. At the end the corpus takes its name by one rename.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.errors import CorpusError
from data_shards.files import sync_folder

Note = dict[str, Any]


@dataclass(frozen=True)
class WorkFolder:
    """The parts of the folder of a build.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def corpus(self) -> Path:
        """The corpus as far as it is."""
        return self.path / "corpus"

    @property
    def text(self) -> Path:
        """Tokens and words of the text, in blocks."""
        return self.path / "text"

    @property
    def counts(self) -> Path:
        """Counts of words over all blocks."""
        return self.path / "counts"

    @property
    def notes(self) -> Path:
        """What is finished."""
        return self.path / "notes"

    def note(self, name: str) -> Note | None:
        """Return the note on a part that is finished, None where it is not."""
        try:
            content: Note = json.loads((self.notes / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None
        return content

    def write_note(self, name: str, content: Note) -> None:
        """Note that a part is finished, and what it left; its files are on the disk already."""
        path = self.notes / f"{name}.json"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("xb") as file:
            file.write(json.dumps(content).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


@contextmanager
def work_folder(output: Path, plan: Note) -> Iterator[tuple[WorkFolder, bool]]:
    """Give the folder in which `output` is built, and whether it goes on from an earlier try.

    Where the block ends without an error, the corpus has its name and the folder is gone. After an
    error the folder stays if a part was finished, so that the build can go on.

    Args:
        output: the corpus folder to be; it must not exist or be empty.
        plan: all that decides what is built; only an equal one is gone on with.

    Raises:
        CorpusError: `output` exists, cannot be written, or is being built by another process.
    """
    output = output.resolve()
    folder = WorkFolder(output.parent / f".{output.name}.partial")
    try:
        check_absent(output)
        folder.path.mkdir(parents=True, exist_ok=True)
        with (folder.path / "lock").open("wb") as lock:
            _lock(lock.fileno(), output)
            try:
                yield folder, _goes_on(folder, plan)
                sync_folder(folder.corpus)
                check_absent(output)
                folder.corpus.rename(output)
                sync_folder(output.parent)
            except BaseException:
                if not any(folder.notes.glob("*.json")):
                    shutil.rmtree(folder.path, ignore_errors=True)
                raise
            shutil.rmtree(folder.path, ignore_errors=True)
    except OSError as error:
        raise CorpusError(
            f"{output} cannot be written ({error}), expected a place with room for a new folder; "
            "make room and start again, or change --output"
        ) from error


def check_absent(output: Path) -> None:
    """Raise `CorpusError` unless `output` does not exist or is an empty folder."""
    if output.is_dir():
        if any(output.iterdir()):
            raise CorpusError(
                f"{output} exists and is not empty, expected a new folder; change --output"
            )
    elif output.exists():
        raise CorpusError(f"{output} is a file, expected a new folder; change --output")


def _lock(handle: int, output: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CorpusError(
            f"{output} is being built by another process, expected to be the only one; wait for "
            "it, or change --output"
        ) from error


def _goes_on(folder: WorkFolder, plan: Note) -> bool:
    """Make the folder ready; return whether an earlier try had the same plan."""
    identity = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    plan_file = folder.path / "plan"
    goes_on = plan_file.is_file() and plan_file.read_text() == identity
    if not goes_on:
        for earlier in (folder.corpus, folder.text, folder.counts, folder.notes):
            shutil.rmtree(earlier, ignore_errors=True)
    for part in (folder.corpus, folder.text, folder.counts, folder.notes):
        part.mkdir(exist_ok=True)
    plan_file.write_text(identity)
    return goes_on
