"""The places in a run directory, and taking a run back to a checkpoint's step."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.files import sync_file
from launcher.settings import CONFIG_FILE
from lightrnn import LightRNNError, WordTable


class RunError(LightRNNError):
    """A run directory is missing, has no checkpoint, or cannot be written."""


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder: settings, metrics, checkpoints, tables, logs, report."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings."""
        return self.path / CONFIG_FILE

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def vocabulary(self) -> Path:
        """A copy of the corpus's vocabulary, so that a run is complete without its corpus."""
        return self.path / "vocabulary.arrow"

    @property
    def checkpoints(self) -> Path:
        """A folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def tables(self) -> Path:
        """A file a table version."""
        return self.path / "tables"

    @property
    def certificates(self) -> Path:
        """A folder a reallocation: the proof of how near the best its table is."""
        return self.path / "certificates"

    @property
    def statistics(self) -> Path:
        """What a reallocation that was cut off has added up so far."""
        return self.path / "statistics"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    def trace(self, rank: int) -> Path:
        """What the profiler saw on a rank."""
        return self.path / "profile" / f"rank-{rank:05d}.json"

    def log(self, rank: int) -> Path:
        """The log of a rank; in a job of SLURM, of that job's."""
        job_id = os.environ.get("SLURM_JOB_ID")
        job = f"job-{job_id}-" if job_id else ""
        return self.path / "logs" / f"{job}rank-{rank:05d}.log"

    def table(self, version: int) -> Path:
        """The file of a table version."""
        return self.tables / f"table-{version:04d}.arrow"

    def certificate(self, version: int) -> Path:
        """The folder of a table version's certificate."""
        return self.certificates / f"table-{version:04d}"

    def create(self) -> None:
        """Make the folders.

        Raises:
            RunError: they cannot be made.
        """
        try:
            for folder in (self.checkpoints, self.tables, self.tensorboard, self.path / "logs"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be made ({error.strerror}), expected a folder that can be "
                "written; change --run-dir"
            ) from error

    def write_config(self, text: str) -> None:
        """Write the resolved settings."""
        replace_file(self.config, text.encode())

    def write_table(self, table: WordTable, version: int) -> None:
        """Write a table version."""
        temporary = self.tables / f".{version}.tmp"
        table.save(temporary)
        sync_file(temporary)
        temporary.replace(self.table(version))

    def copy_vocabulary(self, source: Path) -> None:
        """Copy the corpus's vocabulary into the run."""
        temporary = self.path / ".vocabulary.tmp"
        shutil.copyfile(source, temporary)
        sync_file(temporary)
        temporary.replace(self.vocabulary)

    def rewind(self, step: int, table_version: int, *, reallocation_due: bool = False) -> None:
        """Drop what came after a checkpoint which is resumed from: metrics, tables, certificates,
        statistics.

        Args:
            step: of the checkpoint.
            table_version: of the table in it.
            reallocation_due: whether it was written before the reallocation at this step.

        Raises:
            RunError: the metrics are damaged elsewhere than in a last line without an end.
        """
        if self.metrics.is_file():
            try:
                lines = [
                    line
                    for line in self.metrics.read_text().splitlines(keepends=True)
                    if line.endswith("\n")
                    and _came_before(json.loads(line), step, reallocation_due)
                ]
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{self.metrics} has a line that is not a record ({error}), expected JSON with "
                    "event and step; remove the line"
                ) from error
            replace_file(self.metrics, "".join(lines).encode())
        if not reallocation_due:
            shutil.rmtree(self.statistics, ignore_errors=True)
        for later in self.tables.glob("table-*.arrow"):
            if int(later.stem.removeprefix("table-")) > table_version:
                later.unlink()
        for later in self.certificates.glob("table-*"):
            if int(later.name.removeprefix("table-")) > table_version:
                shutil.rmtree(later)


def _came_before(record: dict[str, Any], step: int, reallocation_due: bool) -> bool:
    if record["event"] in ("reallocation", "kept") and reallocation_due:
        return bool(record["step"] < step)
    # A run that goes on ends anew.
    return bool(record["step"] <= step and record["event"] != "end")


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file so that it is either the old or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
