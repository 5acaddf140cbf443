"""Which checkpoints a run has: the newest, the best, those to keep, those set aside."""

import logging
import re
import shutil
from pathlib import Path

from data_shards.files import sync_folder
from launcher.checkpoints.meta import (
    META_FILE,
    WAY_OUT,
    CheckpointError,
    DamagedCheckpoint,
    read_meta,
    verify_checkpoint,
)
from launcher.checkpoints.whole_folders import remove_whole_folder
from launcher.run_dir import RunDirectory, RunError, replace_file

log = logging.getLogger("lightrnn")

LATEST = "latest"
"""Name of the file with the newest checkpoint's name, for people and tools; not read here."""

_STEP, _BEFORE = "step", "before-reallocation"
_NAME = re.compile(rf"({_BEFORE}|{_STEP})-(\d+)")


def checkpoint_name(step: int, *, reallocation_due: bool = False) -> str:
    """Return the name of a step's checkpoint.

    One before a reallocation and one after it have the same step, and a name each, so that the
    second need not replace the first.
    """
    return f"{_BEFORE if reallocation_due else _STEP}-{step:08d}"


def list_checkpoints(run: RunDirectory) -> list[Path]:
    """Return the valid checkpoints of a run, oldest first."""
    return sorted(
        (marker.parent for marker in run.checkpoints.glob(f"*/{META_FILE}") if _is_name(marker)),
        key=_age,
    )


def choose_checkpoint(run: RunDirectory, which: str) -> Path:
    """Return the checkpoint `latest`, `best` (by validation), or one by its name.

    Raises:
        RunError: there is none.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise RunError(
            f"{run.path} has no checkpoint, expected a run directory; give one that was trained"
        )
    if which == "latest":
        return checkpoints[-1]
    if which == "best":
        return best_checkpoint(checkpoints) or checkpoints[-1]
    for checkpoint in checkpoints:
        if checkpoint.name == which:
            return checkpoint
    raise RunError(
        f"there is no checkpoint {which}, expected latest, best, or one of "
        f"{', '.join(checkpoint.name for checkpoint in checkpoints)}; change --checkpoint"
    )


def best_checkpoint(checkpoints: list[Path]) -> Path | None:
    """Return the checkpoint with the least validation perplexity; None where none has one."""
    measured = {path: _perplexity(path) for path in checkpoints}
    rated = [path for path, perplexity in measured.items() if perplexity > 0]
    return min(rated, key=measured.__getitem__, default=None)


def newest_whole_checkpoint(run: RunDirectory) -> Path | None:
    """Return the newest checkpoint that is whole, None where there is none at all.

    Damaged ones that are newer are told and moved aside, as `damaged-NAME`.

    Raises:
        CheckpointError: there are checkpoints, but none is whole, or one is from another version.
    """
    damages: dict[Path, DamagedCheckpoint] = {}
    for checkpoint in reversed(list_checkpoints(run)):
        try:
            verify_checkpoint(checkpoint)
        except DamagedCheckpoint as error:
            damages[checkpoint] = error
        else:
            point_latest_at(checkpoint)
            for damaged, damage in damages.items():
                aside = _set_aside(damaged)
                log.warning(
                    "%s; it lies in %s now, and the run goes on from %s",
                    _without_way_out(damage),
                    aside.name,
                    checkpoint.name,
                )
            return checkpoint
    if damages:
        newest = _without_way_out(next(iter(damages.values())))
        raise CheckpointError(
            f"none of the {len(damages)} checkpoints in {run.checkpoints} is whole, as {newest}; "
            "restore one from a copy, or start another --run-dir"
        )
    return None


def drop_old_checkpoints(run: RunDirectory, keep: int, keep_every_steps: int) -> None:
    """Remove all checkpoints but the newest, the best by validation, and every n-th.

    Args:
        run: whose.
        keep: how many of the newest to keep.
        keep_every_steps: those whose step is a multiple of it are kept; 0 for none.
    """
    checkpoints = list_checkpoints(run)
    # What was before a reallocation is of no more use once the reallocation is over.
    lasting = [path for path in checkpoints if path.name.startswith(_STEP)]
    kept = {*checkpoints[-1:], *lasting[-keep:], best_checkpoint(checkpoints)}
    if keep_every_steps:
        kept |= {path for path in lasting if _age(path)[0] % keep_every_steps == 0}
    for folder in run.checkpoints.iterdir():
        if _NAME.fullmatch(folder.name) and folder not in kept:
            remove_whole_folder(folder, META_FILE)


def remove_unfinished(run: RunDirectory) -> None:
    """Remove what was left of checkpoints whose writing was cut off."""
    for folder in run.checkpoints.glob(".*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def point_latest_at(checkpoint: Path) -> None:
    """Let the file `latest` name a checkpoint, from one moment to the next."""
    # A link would become a folder in many a copy of a run.
    replace_file(checkpoint.with_name(LATEST), f"{checkpoint.name}\n".encode())
    sync_folder(checkpoint.parent)


def _without_way_out(damage: DamagedCheckpoint) -> str:
    return str(damage).removesuffix(f"; {WAY_OUT}")


def _set_aside(checkpoint: Path) -> Path:
    aside, number = checkpoint.with_name(f"damaged-{checkpoint.name}"), 1
    while aside.exists():
        number += 1
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}-{number}")
    checkpoint.rename(aside)
    sync_folder(checkpoint.parent)
    return aside


def _is_name(marker: Path) -> bool:
    return _NAME.fullmatch(marker.parent.name) is not None


def _age(checkpoint: Path) -> tuple[int, bool]:
    kind, _, step = checkpoint.name.rpartition("-")
    return int(step), kind == _STEP


def _perplexity(checkpoint: Path) -> float:
    try:
        return read_meta(checkpoint).valid_perplexity
    except CheckpointError:
        return 0.0
