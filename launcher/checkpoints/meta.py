"""What `meta.json` says of a checkpoint, and whether the files are what it says."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from launcher.checkpoints.whole_folders import Files, find_damage
from lightrnn import LightRNNError

FORMAT_VERSION = 2
META_FILE = "meta.json"

WAY_OUT = "remove this checkpoint's folder to go on from the one before"


class CheckpointError(LightRNNError):
    """A checkpoint belongs to another corpus, model, or table, or cannot be written."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint is not as it was written."""


@dataclass(frozen=True)
class Meta:
    """What `meta.json` says of a checkpoint.

    Attributes:
        format_version: of the checkpoint.
        step: steps taken.
        table_version: version of the word table in it.
        table_fingerprint: of that table.
        table_shape: its rows and columns.
        rounds: state of the reallocation schedule.
        skipped: counts of steps that were left out.
        valid_perplexity: measured at this very step; 0 where it was not.
        loader: corpus fingerprint, SHA-256 of its vocabulary, how its text became words, epoch
            and step in it, lanes.
        fixed: settings that a resumed run has to share.
        files: bytes and SHA-256 of every other file.
    """

    format_version: int
    step: int
    table_version: int
    table_fingerprint: str
    table_shape: list[int]
    rounds: dict[str, Any]
    skipped: dict[str, int]
    valid_perplexity: float
    loader: dict[str, Any]
    fixed: dict[str, Any]
    files: Files


def read_meta(checkpoint: Path) -> Meta:
    """Read a checkpoint's `meta.json`.

    Raises:
        DamagedCheckpoint: it is missing or damaged.
        CheckpointError: it is from another version.
    """
    path = checkpoint / META_FILE
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}; {WAY_OUT}") from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise DamagedCheckpoint(f"{path} is damaged (no format version); {WAY_OUT}")
    if content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {content['format_version']}, expected {FORMAT_VERSION}; "
            "use the version of lightrnn that wrote it"
        )
    names = {one.name for one in fields(Meta)}
    if set(content) != names:
        wrong = ", ".join(sorted(set(content) ^ names))
        raise DamagedCheckpoint(f"{path} is damaged (fields {wrong}); {WAY_OUT}")
    return Meta(**content)


def verify_checkpoint(checkpoint: Path) -> Meta:
    """Check every file of a checkpoint against `meta.json`.

    Raises:
        DamagedCheckpoint: a file is missing, has another size, or another SHA-256.
        CheckpointError: it is from another version.
    """
    meta = read_meta(checkpoint)
    damage = find_damage(checkpoint, meta.files)
    if damage:
        raise DamagedCheckpoint(f"{damage}; {WAY_OUT}")
    return meta
