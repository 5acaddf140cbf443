"""Checking every checksum and invariant of a corpus or of a run."""

import json
from collections.abc import Callable
from pathlib import Path

from allocation import check_certificate
from data_shards import Corpus, Vocabulary, local_workers
from launcher.checkpoints import (
    CheckpointError,
    list_checkpoints,
    load_vocabulary,
    verify_checkpoint,
)
from launcher.kept_statistics import verify_statistics
from launcher.run_dir import RunDirectory, RunError
from launcher.settings import read_settings
from lightrnn import WordTable


def verify(path: Path, on_progress: Callable[[str], None], num_workers: int = 1) -> None:
    """Check a corpus folder, by as many processes as wanted, or a run directory.

    Raises:
        LightRNNError, CorpusError: the first thing that is wrong, or neither kind of folder.
    """
    if (path / "manifest.json").is_file():
        with local_workers(num_workers) as workers:
            Corpus.open(path).verify(workers, on_progress)
    elif (path / "config.toml").is_file():
        verify_run(RunDirectory(path), on_progress)
    else:
        raise RunError(
            f"{path} has neither manifest.json nor config.toml, expected a corpus or a run "
            "directory; give another folder"
        )


def verify_run(run: RunDirectory, on_progress: Callable[[str], None]) -> None:
    """Check a run directory: settings, vocabulary, tables and their certificates, metrics,
    checkpoints, and the statistics of a reallocation that was cut off.

    Raises:
        LightRNNError, CorpusError: the first thing that is wrong.
    """
    read_settings(run.config)
    vocabulary = Vocabulary.load(run.vocabulary)
    on_progress(f"vocabulary of {len(vocabulary)} words")
    tables = {}
    for path in sorted(run.tables.glob("table-*.arrow")):
        table = WordTable.load(path)
        if table.num_words != len(vocabulary):
            raise RunError(
                f"{path} has {table.num_words} words, expected {len(vocabulary)} as in the "
                "vocabulary; start the run again, which writes it anew"
            )
        version = int(path.stem.removeprefix("table-"))
        tables[version] = table
        on_progress(path.name)
        if run.certificate(version).is_dir():
            claim = check_certificate(run.certificate(version), table)
            on_progress(
                f"certificate of {path.name}: loss {claim.objective:.1f} nats, no table below "
                f"{claim.lower_bound:.1f}, gap {claim.gap_percent:.4f} %"
            )
    _verify_metrics(run.metrics)
    on_progress(run.metrics.name)
    for checkpoint in list_checkpoints(run):
        meta = verify_checkpoint(checkpoint)
        load_vocabulary(run, meta)
        saved = tables.get(meta.table_version)
        if saved is None or saved.fingerprint != meta.table_fingerprint:
            raise CheckpointError(
                f"{checkpoint} holds another table {meta.table_version} than {run.tables}; "
                "remove the table's file and start the run again, which writes it anew"
            )
        on_progress(checkpoint.name)
    verify_statistics(run, on_progress)


def _verify_metrics(path: Path) -> None:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read ({error}), expected metrics") from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            complete = {"event", "step", "table_version"} <= record.keys()
        except (ValueError, AttributeError):
            complete = False
        if not complete:
            raise RunError(
                f"{path} line {number} is not a record with event, step and table_version; "
                "remove the line"
            )
