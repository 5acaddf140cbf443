"""A reallocation in progress: its sums so far, on file, for any number of processes to go on from.

Every rank writes the sums and the lanes' states that it has. Sums are exact, so whoever goes on may
add up the files in any order; whose lanes are read on by which rank does not matter either. A
folder `statistics/batch-XXXXXXXX/` is valid by its marker, which says of which step, table and
parameters the sums are: with others they are never used.

Legend: V words, S sums a word.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from allocation import Communicator, StatisticsPass, WordStatistics, run_together
from allocation.collectives import broadcast_text, gather_texts
from launcher.checkpoints.intervals import SaveClock
from launcher.checkpoints.snapshot import lane_tensors, stack_lanes
from launcher.checkpoints.tensor_files import ROWS_PER_BLOCK, write_tensors
from launcher.checkpoints.whole_folders import (
    Files,
    find_damage,
    remove_whole_folder,
    write_whole_folder,
)
from launcher.run_dir import RunDirectory, RunError
from lightrnn import LightRNN, LightRNNError

log = logging.getLogger("lightrnn")

FORMAT_VERSION = 1
MARKER = "meta.json"

_SUMS = "sums_VS"
_SMALL_SUMS = "counts_V", "measured", "moments"


class Interrupted(Exception):
    """All ranks have agreed to stop in the middle of a pass; its sums are kept."""


@dataclass(frozen=True)
class PassKey:
    """What decides every sum of a pass.

    Attributes:
        step: training steps taken.
        table_fingerprint: of the table in force.
        parameters_sha256: of the model.
        corpus_fingerprint: of the text.
        max_tokens: of the sample; 0 for all.
        arithmetic: device and precision.
    """

    step: int
    table_fingerprint: str
    parameters_sha256: str
    corpus_fingerprint: str
    max_tokens: int
    arithmetic: str


class KeptStatistics:
    """Keeps a pass now and then, and ends it where any rank is asked to stop.

    All ranks make and call it alike. Sums that are on file for this very pass are gone on from; any
    others are removed.

    Args:
        run: where.
        key: of the pass.
        lanes: of this rank.
        communicator: all ranks.
        clock: tells rank 0 when to keep the pass.
        stop_requested: whether this rank was asked to stop.

    Attributes:
        num_batches: how many are in the sums on file.
    """

    def __init__(
        self,
        run: RunDirectory,
        key: PassKey,
        lanes: range,
        communicator: Communicator,
        clock: SaveClock,
        stop_requested: Callable[[], bool],
    ) -> None:
        self._run, self._key, self._lanes, self._communicator = run, key, lanes, communicator
        self._clock, self._stop_requested = clock, stop_requested
        self._folder = self._find()
        self.num_batches = _read_marker(self._folder)["num_batches"] if self._folder else 0

    def restore(self, one_pass: StatisticsPass) -> None:
        """Add up the files; each rank takes some of the sums, and the states of its lanes."""
        folder = self._folder
        if folder is None:
            return

        def read() -> None:
            paths = sorted(folder.glob("*.safetensors"))
            for path in paths[self._communicator.rank :: self._communicator.world_size]:
                _add_sums(one_pass.statistics, path)
            states = _read_lanes(paths, self._lanes)
            if states:
                one_pass.state = stack_lanes(states, self._lanes).to(
                    one_pass.statistics.counts_V.device
                )
            one_pass.num_batches = self.num_batches

        run_together(read, self._communicator)
        log.info("  reallocation: going on after %d batches of the statistics", self.num_batches)

    def keep(self, one_pass: StatisticsPass, *, ended: bool) -> None:
        """Write the sums where it is time to, at the end of a pass once kept, and before a stop.

        Raises:
            Interrupted: on every rank, where any was asked to stop.
        """
        is_root = self._communicator.rank == 0
        signs = np.array([self._stop_requested(), is_root and self._clock.is_due], dtype=np.int64)
        self._communicator.all_reduce(signs)
        stop, is_due = (signs > 0).tolist()
        is_kept = one_pass.num_batches == self.num_batches
        if not is_kept and (stop or is_due or (ended and self._folder is not None)):
            self._write(one_pass)
        if stop:
            raise Interrupted

    def _write(self, one_pass: StatisticsPass) -> None:
        final = self._run.statistics / f"batch-{one_pass.num_batches:08d}"
        tensors = {name: getattr(one_pass.statistics, name) for name in (_SUMS, *_SMALL_SUMS)}
        if one_pass.state is not None:
            tensors |= lane_tensors(one_pass.state, self._lanes)

        def write(folder: Path) -> Sequence[Path]:
            path = folder / f"rank-{self._communicator.rank:05d}.safetensors"
            write_tensors(path, tensors)
            return [path]

        def describe(files: Files) -> dict[str, Any]:
            return {
                "format_version": FORMAT_VERSION,
                "key": vars(self._key),
                "num_batches": one_pass.num_batches,
                "files": files,
            }

        self._clock.restart()
        try:
            write_whole_folder(final, write, MARKER, describe, self._communicator)
        except LightRNNError as error:
            # They save time and are not needed.
            log.warning("the statistics so far are not kept: %s", error)
            return
        self._folder, self.num_batches = final, one_pass.num_batches
        if self._communicator.rank == 0:
            _remove_all(self._run, but=final)
            log.info("  reallocation: %d batches of the statistics are kept", self.num_batches)

    def _find(self) -> Path | None:
        """Return the folder with whole sums of this pass, the same on every rank."""
        communicator = self._communicator

        def find() -> str:
            if communicator.rank != 0:
                return ""
            found = [folder for folder in _folders(self._run) if self._is_ours(folder)]
            _remove_all(self._run, but=found[-1] if found else None)
            return found[-1].name if found else ""

        name = broadcast_text(run_together(find, communicator), 0, communicator)
        if not name:
            return None
        folder = self._run.statistics / name

        def check() -> str:
            files = sorted(_read_marker(folder)["files"].items())
            return find_damage(folder, dict(files[communicator.rank :: communicator.world_size]))

        damages = [
            one for one in gather_texts(run_together(check, communicator), communicator) if one
        ]
        if not damages:
            return folder
        if communicator.rank == 0:
            log.warning("%s; the statistics are added up from the beginning", damages[0])
            remove_whole_folder(folder, MARKER)
        return None

    def _is_ours(self, folder: Path) -> bool:
        try:
            return bool(_read_marker(folder)["key"] == vars(self._key))
        except RunError as error:
            log.warning("%s", error)
            return False


def pass_key(
    model: LightRNN, *, step: int, table: str, corpus: str, max_tokens: int, arithmetic: str
) -> PassKey:
    """Return what decides the sums of a pass; the model's parameters are read for it."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return PassKey(step, table, digest.hexdigest(), corpus, max_tokens, arithmetic)


def discard_statistics(run: RunDirectory) -> None:
    """Remove what was kept: the reallocation is over."""
    _remove_all(run, but=None)


def verify_statistics(run: RunDirectory, on_progress: Callable[[str], None]) -> None:
    """Check every file of what is kept.

    Raises:
        RunError: one is missing or damaged.
    """
    for folder in _folders(run):
        damage = find_damage(folder, _read_marker(folder)["files"])
        if damage:
            raise RunError(f"{damage}; remove {folder}, and they are added up from the beginning")
        on_progress(f"{run.statistics.name}/{folder.name}")


def _folders(run: RunDirectory) -> list[Path]:
    return sorted(marker.parent for marker in run.statistics.glob(f"batch-*/{MARKER}"))


def _read_marker(folder: Path) -> dict[str, Any]:
    path = folder / MARKER
    try:
        content = json.loads(path.read_text())
        if content["format_version"] == FORMAT_VERSION and content.keys() >= {"key", "files"}:
            return {**content, "num_batches": int(content["num_batches"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path} cannot be read ({error!r}); remove {folder}") from error
    raise RunError(f"{path} is from another version of lightrnn; remove {folder}")


def _remove_all(run: RunDirectory, *, but: Path | None) -> None:
    if run.statistics.is_dir():
        for folder in run.statistics.iterdir():
            if folder != but:
                remove_whole_folder(folder, MARKER)


def _add_sums(statistics: WordStatistics, path: Path) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            for name in _SMALL_SUMS:
                own = getattr(statistics, name)
                own += file.get_tensor(name).to(own.device)
            sums, own = file.get_slice(_SUMS), statistics.sums_VS
            for start in range(0, len(own), ROWS_PER_BLOCK):
                block = slice(start, start + ROWS_PER_BLOCK)
                own[block] += sums[block].to(own.device)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path} does not fit this run ({error}); remove {path.parent}") from error


def _read_lanes(paths: Sequence[Path], lanes: range) -> Mapping[str, torch.Tensor]:
    """Return the states of some lanes by name; none where passes keep no states."""
    wanted = {f"lane_states.{lane:06d}" for lane in lanes}
    found: dict[str, torch.Tensor] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in wanted.intersection(file.keys()):
                found[name] = file.get_tensor(name)
        if len(found) == len(wanted):
            break
    return found
