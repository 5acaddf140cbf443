"""Checkpoints: every rank writes its part, and `meta.json`, written last, makes it valid.

A checkpoint is a folder `checkpoints/step-XXXXXXXX/` with the shards of PyTorch Distributed
Checkpoint, the random state, and `meta.json` with everything that is not a tensor and the SHA-256
of every file. Recurrent states are saved lane by lane, everything else once, so that any number of
processes can go on from it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from data_shards import Vocabulary
from data_shards.files import sha256_of, sync_folder
from launcher.engines.engine import model_tensors
from launcher.processes import Processes
from launcher.run_dir import RunDirectory, RunError, replace_file
from launcher.safe_reader import SafeReader
from launcher.state import TrainingState
from lightrnn import LightRNN, LightRNNError, WordTable

FORMAT_VERSION = 1
META_FILE = "meta.json"
_TABLE_TENSORS = ("table.row_of_word", "table.column_of_word")


class CheckpointError(LightRNNError):
    """A checkpoint is damaged, or belongs to another corpus, model, or table."""


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
    valid_perplexity: float
    loader: dict[str, Any]
    fixed: dict[str, Any]
    files: dict[str, dict[str, Any]]


def list_checkpoints(run: RunDirectory) -> list[Path]:
    """Return the valid checkpoints of a run, oldest first."""
    return sorted(path.parent for path in run.checkpoints.glob(f"step-*/{META_FILE}"))


def read_meta(checkpoint: Path) -> Meta:
    """Read a checkpoint's `meta.json`.

    Raises:
        CheckpointError: it is missing, damaged, or from a newer version.
    """
    path = checkpoint / META_FILE
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; {_WAY_OUT}") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else None
        raise CheckpointError(
            f"{path} has format version {found}, expected {FORMAT_VERSION}; "
            "use the version of lightrnn that wrote it"
        )
    names = {one.name for one in fields(Meta)}
    if set(content) != names:
        wrong = ", ".join(sorted(set(content) ^ names))
        raise CheckpointError(f"{path} is damaged (fields {wrong}); {_WAY_OUT}")
    return Meta(**content)


_WAY_OUT = "remove this checkpoint's folder to go on from the one before"


def verify_checkpoint(checkpoint: Path) -> Meta:
    """Check every file of a checkpoint against `meta.json`.

    Raises:
        CheckpointError: a file is missing, has another size, or another SHA-256.
    """
    meta = read_meta(checkpoint)
    for name, expected in meta.files.items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; {_WAY_OUT}")
        found = _describe_file(path)
        if found != expected:
            raise CheckpointError(
                f"{path} is damaged: {found['bytes']} bytes with SHA-256 "
                f"{found['sha256'][:12]}..., expected {expected['bytes']} with "
                f"{expected['sha256'][:12]}...; {_WAY_OUT}"
            )
    return meta


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
    measured = {path: read_meta(path).valid_perplexity for path in checkpoints}
    rated = [path for path, perplexity in measured.items() if perplexity > 0]
    return min(rated, key=measured.__getitem__, default=None)


def save_checkpoint(
    run: RunDirectory,
    state: TrainingState,
    *,
    loader: dict[str, Any],
    fixed: dict[str, Any],
    keep: int,
    processes: Processes,
) -> None:
    """Write a checkpoint and drop old ones; called by every rank.

    Args:
        run: where.
        state: what.
        loader: the position in the corpus.
        fixed: settings that a resumed run has to share.
        keep: how many of the newest to keep; the best by validation is kept besides.
        processes: who writes.
    """
    final = run.checkpoints / f"step-{state.step:08d}"
    temporary = run.checkpoints / f".{final.name}.tmp"

    def begin() -> None:
        if processes.is_root:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

    def finish() -> None:
        if not processes.is_root:
            return
        (temporary / "rng").mkdir()
        save_file({"torch": torch.get_rng_state()}, temporary / "rng" / "rng.safetensors")
        files = {
            str(path.relative_to(temporary)): _describe_file(path)
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        meta = Meta(
            format_version=FORMAT_VERSION,
            step=state.step,
            table_version=state.table_version,
            table_fingerprint=state.table.fingerprint,
            table_shape=[state.table.num_rows, state.table.num_columns],
            rounds=asdict(state.rounds),
            valid_perplexity=state.valid_perplexity,
            loader=loader,
            fixed=fixed,
            files=files,
        )
        replace_file(temporary / META_FILE, json.dumps(asdict(meta), indent=1).encode())
        shutil.rmtree(final, ignore_errors=True)
        temporary.replace(final)
        sync_folder(run.checkpoints)
        _drop_old(run, keep)

    processes.together(begin)
    tensors = {**_replicated_tensors(state), **_lane_tensors(state.lane_state, state.lanes)}
    save(tensors, checkpoint_id=str(temporary))
    processes.together(finish)


def load_checkpoint(checkpoint: Path, meta: Meta, state: TrainingState) -> None:
    """Fill `state` from a checkpoint that `verify_checkpoint` found whole; called by every rank.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    reader = SafeReader(checkpoint)
    tensors = {**_replicated_tensors(state), **_lane_tensors(state.lane_state, state.lanes)}
    with _telling_what_does_not_fit(checkpoint):
        index = reader.read_metadata()
    for name, saved in index.state_dict_metadata.items():
        if name.startswith("optimizer.") and isinstance(saved, TensorStorageMetadata):
            tensors[name] = torch.empty(saved.size, dtype=saved.properties.dtype)
    _load(tensors, reader)
    with _telling_what_does_not_fit(checkpoint):
        state.engine.load(tensors)
    state.lane_state = _stack_lanes(tensors, state)
    state.set_table(_table_of(tensors, meta), meta.table_version)
    state.step = meta.step
    state.rounds = type(state.rounds)(**meta.rounds)
    state.valid_perplexity = meta.valid_perplexity
    torch.set_rng_state(load_file(checkpoint / "rng" / "rng.safetensors")["torch"])


def load_vocabulary(run: RunDirectory, meta: Meta) -> Vocabulary:
    """Read the vocabulary that a checkpoint was trained with.

    Raises:
        CorpusError: it cannot be read.
        CheckpointError: it was changed.
    """
    vocabulary = Vocabulary.load(run.vocabulary)
    found, expected = sha256_of(run.vocabulary), meta.loader["vocabulary_sha256"]
    if found != expected:
        raise CheckpointError(
            f"{run.vocabulary} is damaged: SHA-256 {found[:12]}..., expected {expected[:12]}...; "
            "start the run again, which copies it anew from the corpus"
        )
    return vocabulary


def load_model(checkpoint: Path, meta: Meta, model: LightRNN) -> WordTable:
    """Fill the parameters of `model`, set the table that they were trained on, and return it.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    tensors = model_tensors(model)
    for name in _TABLE_TENSORS:
        tensors[name] = torch.empty(model.num_words, dtype=torch.int32)
    _load(tensors, SafeReader(checkpoint))
    table = _table_of(tensors, meta)
    model.set_table(table)
    return table


def _load(tensors: dict[str, Tensor], reader: SafeReader) -> None:
    with _telling_what_does_not_fit(Path(reader.path)):
        load(tensors, storage_reader=reader)


@contextmanager
def _telling_what_does_not_fit(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointException, UnpicklingError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[-300:]
        raise CheckpointError(f"{checkpoint} does not fit this run: {reason}") from error


def _replicated_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Return the tensors that are the same on every rank, by name; parameters are not copied."""
    tensors = state.engine.tensors()
    cells = (state.table.row_of_word, state.table.column_of_word)
    tensors.update(zip(_TABLE_TENSORS, map(torch.tensor, cells), strict=True))
    return tensors


def _lane_tensors(lane_state: Tensor, lanes: range) -> dict[str, Tensor]:
    """Return the recurrent state of each lane of this rank, [S, L, H], by the lane's number."""
    return {
        f"lane_states.{lane:06d}": lane_state[:, :, place].contiguous()
        for place, lane in enumerate(lanes)
    }


def _stack_lanes(tensors: Mapping[str, Tensor], state: TrainingState) -> Tensor:
    lanes = [tensors[f"lane_states.{lane:06d}"] for lane in state.lanes]
    return torch.stack(lanes, dim=2).to(state.model.device)


def _table_of(tensors: Mapping[str, Tensor], meta: Meta) -> WordTable:
    rows, columns = (tensors[name].numpy() for name in _TABLE_TENSORS)
    table = WordTable(rows, columns, *meta.table_shape)
    if table.fingerprint != meta.table_fingerprint:
        raise CheckpointError(
            f"the table of step {meta.step} does not match its fingerprint; {_WAY_OUT}"
        )
    return table


def _describe_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _drop_old(run: RunDirectory, keep: int) -> None:
    checkpoints = list_checkpoints(run)
    kept = {*checkpoints[-keep:], best_checkpoint(checkpoints)}
    for checkpoint in checkpoints:
        if checkpoint not in kept:
            # Without its marker it is no checkpoint, however far the removal gets.
            (checkpoint / META_FILE).unlink()
            shutil.rmtree(checkpoint)
