"""From settings to the state that training starts or goes on from."""

import importlib.util
import logging
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from allocation import Communicator, MPICommunicator, TorchCommunicator, run_together
from allocation.collectives import broadcast_text
from allocation.warm_start import context_table, svd_table
from data_shards import Batches, Corpus, Shard
from data_shards.corpus import check_file
from launcher.batches import all_batches, evaluation_batches, training_batches
from launcher.bootstrap import how_started, world_of_mpi
from launcher.checkpoints import (
    CheckpointError,
    Meta,
    list_checkpoints,
    load_checkpoint,
    newest_whole_checkpoint,
    read_meta,
)
from launcher.engines import check_deepspeed
from launcher.job_time import stop_time
from launcher.processes import USER_ERRORS, Processes
from launcher.run_dir import RunDirectory
from launcher.settings import ModelSettings, Settings, SettingsError
from launcher.state import TrainingState
from lightrnn import LightRNN, ModelShape, WordTable, default_shape
from lightrnn.dropout import DropoutRates

log = logging.getLogger("lightrnn")

CONTEXT_TOKENS = 4_000_000
"""About how many training tokens a round of `table.init=context` reads, from the lanes' start."""


@dataclass(frozen=True)
class SplitBatches:
    """This rank's batches of each split; validation and test may be missing."""

    train: Batches
    valid: Batches | None
    test: Batches | None

    def shards(self) -> list[Shard]:
        """Return the shards under the lanes, in any epoch."""
        splits = (self.train, self.valid, self.test)
        return [shard for batches in splits if batches is not None for shard in batches.shards()]


def check_extras(settings: Settings) -> None:
    """Raise `SettingsError` where a setting needs a package that is not installed."""
    if settings.metrics.wandb_project and importlib.util.find_spec("wandb") is None:
        raise SettingsError(
            f"metrics.wandb_project={settings.metrics.wandb_project} needs the package wandb; "
            "install lightrnn[wandb] or leave the setting empty"
        )
    if settings.train.engine == "deepspeed":
        check_deepspeed(settings)


def end_of_job(settings: Settings, processes: Processes) -> float:
    """Return when to stop before the time of a SLURM job is over; rank 0 alone looks at it.

    Raises:
        SettingsError: the margin before the end is as long as the job, or longer.
    """
    return stop_time(settings.checkpoint.seconds_before_end) if processes.is_root else math.inf


def reallocation_ranks(settings: Settings, group: dist.ProcessGroup) -> Communicator:
    """Return what carries the messages of a reallocation.

    Raises:
        SettingsError: MPI is to carry them, and did not start these processes.
    """
    allocation = settings.allocation
    torch_ranks = TorchCommunicator(group)
    if allocation.transport == "torch":
        return torch_ranks
    rank, size = torch_ranks.rank, torch_ranks.world_size
    found = 1 if how_started(os.environ) == "torchrun" else world_of_mpi().Get_size()
    if found != size or (size > 1 and world_of_mpi().Get_rank() != rank):
        raise SettingsError(
            f"allocation.transport=mpi, but MPI finds {found} of the {size} processes of this run; "
            "start them with mpiexec or srun --mpi, or set allocation.transport=torch"
        )
    return MPICommunicator(timeout_seconds=60 * allocation.timeout_minutes)


def open_corpus(settings: Settings, processes: Processes) -> Corpus:
    """Open the corpus; the ranks share the checking of its shards.

    Where shards are copied to the hosts they are checked there.

    Raises:
        CorpusError: it is missing, damaged, or not a corpus.
    """
    corpus = Corpus.open(Path(settings.data.corpus))
    shards = [shard for split in corpus.manifest.splits.values() for shard in split.shards]
    if settings.data.verify and not settings.data.stage_dir:
        corpus.verify_shards(shards[processes.rank :: processes.world_size])
    for shard in shards:
        # A shard that is missing on one host alone is told before training too.
        check_file(corpus.path, shard)
    return corpus


def cut_batches(corpus: Corpus, settings: Settings, rank: int, world_size: int) -> SplitBatches:
    """Cut each split of the corpus into the lanes of a rank; nothing is read.

    Raises:
        CorpusError: there is no training text, or too little of it, or more processes than lanes.
        SettingsError: the schedule needs a validation text and there is none.
    """

    def evaluation(name: str) -> Batches | None:
        if name not in corpus.manifest.splits:
            return None
        return evaluation_batches(corpus, name, settings, rank, world_size)

    train = training_batches(corpus, settings, rank, world_size)
    valid = evaluation("valid")
    if valid is None and settings.allocation.when == "plateau":
        raise SettingsError(
            "allocation.when=plateau needs a validation text, but the corpus has none; "
            "prepare it with --valid or set allocation.when=epochs"
        )
    return SplitBatches(train, valid, evaluation("test"))


def make_model(
    settings: ModelSettings, num_words: int, num_rows: int, num_columns: int
) -> LightRNN:
    """Return the model on the CPU, its parameters drawn from torch's generator.

    Raises:
        ModelError: sizes do not fit together.
    """
    shape = ModelShape(
        num_rows=num_rows,
        num_columns=num_columns,
        embedding_size=settings.embedding_size,
        hidden_size=settings.hidden_size,
        num_layers=settings.num_layers,
        cell=settings.cell,
        tied=settings.tied,
        word_size=settings.word_size,
    )
    return LightRNN(shape, num_words, dropout_rates(settings))


def dropout_rates(settings: ModelSettings) -> DropoutRates:
    """Return the rates by place; where none is given, the common one."""

    def rate(own: float | None) -> float:
        return settings.dropout if own is None else own

    return DropoutRates(
        inputs=rate(settings.input_dropout),
        hidden=rate(settings.hidden_dropout),
        outputs=rate(settings.output_dropout),
        weights=settings.weight_dropout,
        words=settings.word_dropout,
        variational=settings.variational,
    )


def first_table(
    settings: Settings,
    corpus: Corpus,
    batches: SplitBatches,
    run: RunDirectory,
    processes: Processes,
    group: dist.ProcessGroup,
) -> WordTable:
    """Return the table that training starts from; called by all ranks.

    Where the run has checkpoints their table follows, and no time is spent on the first one.

    Raises:
        WordTableError: the table is too small for the vocabulary, or its file cannot be used.
        SettingsError: the table of a file does not fit the vocabulary.
    """
    vocabulary = corpus.vocabulary
    side, _ = default_shape(len(vocabulary))
    shape = settings.table.num_rows or side, settings.table.num_columns or side
    seed = settings.train.seed
    communicator = TorchCommunicator(group)
    has_checkpoints = np.array([len(list_checkpoints(run)) > 0], dtype=np.int64)
    communicator.all_reduce(has_checkpoints)
    init = settings.table.init
    if init in ("svd", "context") and has_checkpoints[0]:
        init = "random"

    def tell(line: str) -> None:
        log.info("  first table: %s", line)

    if init == "svd":
        return svd_table(
            corpus.split("train"),
            vocabulary.counts,
            *shape,
            seed,
            communicator,
            user_errors=USER_ERRORS,
            on_progress=tell,
        )
    if init == "context":
        return context_table(
            lambda: all_batches(batches.train, processes.device, CONTEXT_TOKENS),
            len(vocabulary),
            *shape,
            seed,
            group,
            device=processes.device,
            on_progress=tell,
        )

    def make() -> WordTable:
        match init:
            case "random":
                return WordTable.random(len(vocabulary), *shape, seed)
            case "frequency":
                return WordTable.by_frequency(vocabulary.counts, *shape)
            case path:
                return _load_table(path, len(vocabulary))

    return run_together(make, communicator, USER_ERRORS)


def _load_table(path: str, num_words: int) -> WordTable:
    table = WordTable.load(Path(path))
    if table.num_words != num_words:
        raise SettingsError(
            f"the table {path} has {table.num_words} words, the corpus {num_words}; "
            "change table.init (random, frequency, svd, context, or a table of this corpus)"
        )
    return table


def first_model(settings: Settings, table: WordTable, device: torch.device) -> LightRNN:
    """Return the model at step 0, the same on every rank.

    Raises:
        LightRNNError: sizes do not fit together.
    """
    torch.manual_seed(settings.train.seed)
    model = make_model(settings.model, table.num_words, table.num_rows, table.num_columns)
    model.loss_chunk_tokens = settings.train.loss_chunk_tokens
    return model.to(device)


def fixed_settings(settings: Settings, state: TrainingState) -> dict[str, Any]:
    """Return what a resumed run has to share with the run that it goes on from."""
    shape = state.model.shape
    return {
        "data.num_lanes": settings.data.num_lanes,
        "data.bptt": settings.data.bptt,
        "data.shuffle": settings.data.shuffle,
        "data.context": settings.data.context,
        "table.num_rows": shape.num_rows,
        "table.num_columns": shape.num_columns,
        "model.cell": shape.cell,
        "model.embedding_size": shape.embedding_size,
        "model.hidden_size": shape.hidden_size,
        "model.num_layers": shape.num_layers,
        "model.tied": shape.tied,
        "model.word_size": shape.word_size,
        "train.seed": settings.train.seed,
        "train.optimizer": settings.train.optimizer,
    }


def loader_position(corpus: Corpus, batches: Batches, step: int) -> dict[str, Any]:
    """Return where in the corpus a step is; the same for any number of processes."""
    return {
        "corpus_fingerprint": corpus.fingerprint,
        "vocabulary_sha256": corpus.manifest.vocabulary.sha256,
        "tokenization": asdict(corpus.manifest.tokenization),
        "epoch": step // batches.num_steps,
        "step": step % batches.num_steps,
        "num_lanes": batches.num_lanes,
    }


def resume(
    run: RunDirectory,
    state: TrainingState,
    settings: Settings,
    corpus: Corpus,
    processes: Processes,
) -> Path | None:
    """Fill `state` from the newest checkpoint that is whole, and return it; None without any.

    Raises:
        CheckpointError: none is whole, or it is from another corpus, model, or table.
        RunError: the metrics are damaged.
    """

    def find() -> str:
        # By rank 0 alone: it moves damaged ones aside.
        whole = newest_whole_checkpoint(run) if processes.is_root else None
        return whole.name if whole else ""

    own = processes.together(find)
    name = broadcast_text(own, 0, TorchCommunicator(processes.group))
    if not name:
        return None
    checkpoint = run.checkpoints / name

    def check() -> Meta:
        meta = read_meta(checkpoint)
        if meta.loader["corpus_fingerprint"] != corpus.fingerprint:
            raise CheckpointError(
                f"{run.path} was trained on the corpus {meta.loader['corpus_fingerprint'][:12]}, "
                f"found {corpus.fingerprint[:12]} in {corpus.path}; give the same corpus by "
                "data.corpus, or another --run-dir"
            )
        for name, found in fixed_settings(settings, state).items():
            if meta.fixed.get(name) != found:
                raise CheckpointError(
                    f"{checkpoint} was made with {name}={meta.fixed.get(name)}, found {found}; "
                    f"set {name} as it was, or start another --run-dir"
                )
        return meta

    load_checkpoint(checkpoint, processes.together(check), state)

    def rewind() -> None:
        if processes.is_root:
            run.rewind(state.step, state.table_version, reallocation_due=state.rounds.due)

    processes.together(rewind)
    log.info("resumed from %s (table version %d)", checkpoint, state.table_version)
    return checkpoint
