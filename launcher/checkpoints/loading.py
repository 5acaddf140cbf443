"""Reading checkpoints back, at any number of processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from data_shards import Vocabulary
from data_shards.files import sha256_of
from launcher.averaging import AVERAGES
from launcher.checkpoints.meta import CheckpointError, Meta
from launcher.checkpoints.safe_reader import SafeReader
from launcher.checkpoints.snapshot import (
    TABLE_TENSORS,
    named_tensors,
    stack_lanes,
    table_of,
)
from launcher.checkpoints.writing import RANDOM_STATE
from launcher.engines.engine import model_tensors
from launcher.run_dir import RunDirectory
from launcher.state import TrainingState
from lightrnn import LightRNN, WordTable


def load_checkpoint(checkpoint: Path, meta: Meta, state: TrainingState) -> None:
    """Fill `state` from a checkpoint that `verify_checkpoint` found whole; called by every rank.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    reader = SafeReader(checkpoint)
    tensors = named_tensors(state)
    with _telling_what_does_not_fit(checkpoint):
        index = reader.read_metadata()
    averages = {} if state.averaged is None else state.averaged.tensors()
    has_averages = averages.keys() <= index.state_dict_metadata.keys()
    if not has_averages:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in averages}
    for name, saved in index.state_dict_metadata.items():
        if name.startswith("optimizer.") and isinstance(saved, TensorStorageMetadata):
            tensors[name] = torch.empty(saved.size, dtype=saved.properties.dtype)
    _load(tensors, reader)
    with _telling_what_does_not_fit(checkpoint):
        state.engine.load(tensors)
    if state.averaged is not None and not has_averages:
        state.averaged.restart()
    state.lane_state = stack_lanes(tensors, state.lanes).to(state.model.device)
    state.set_table(table_of(tensors, meta), meta.table_version)
    state.step = meta.step
    state.rounds = type(state.rounds)(**meta.rounds)
    state.skipped = type(state.skipped)(**meta.skipped)
    state.valid_perplexity = meta.valid_perplexity
    torch.set_rng_state(load_file(checkpoint / RANDOM_STATE)["torch"])


def load_model(checkpoint: Path, meta: Meta, model: LightRNN) -> WordTable:
    """Fill the parameters of `model`, set the table that they were trained on, and return it.

    Where the run kept averages of the parameters, these are what the model gets.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    reader = SafeReader(checkpoint)
    with _telling_what_does_not_fit(checkpoint):
        saved = reader.read_metadata().state_dict_metadata
    tensors = {}
    for name, tensor in model_tensors(model).items():
        average = name.replace("model.", AVERAGES, 1)
        tensors[average if average in saved else name] = tensor
    for name in TABLE_TENSORS:
        tensors[name] = torch.empty(model.num_words, dtype=torch.int32)
    _load(tensors, reader)
    table = table_of(tensors, meta)
    model.set_table(table)
    return table


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
