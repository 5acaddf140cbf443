"""Read what a run has written so far, also while it is still going."""

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightrnn.errors import LightRNNError

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
FloatArray = npt.NDArray[np.float64]


class ReportError(LightRNNError):
    """A directory is not one from which a report can be written."""


@dataclass(frozen=True)
class RunData:
    """The records and files of one run.

    Attributes:
        directory: the run directory.
        starts: one record for the first start and each resume.
        train: the training records that count, in order of steps.
        valid: the validations that count.
        reallocations: the reallocations that count.
        kept: those whose tables were tried and not taken.
        end: the last record of a finished run, else None.
        last: the last record of all, whatever its event.
        elapsed_seconds: the time that all starts together took, NaN where none is told.
        num_unreadable_lines: lines of `metrics.jsonl` left out, a half-written last one aside.
        table_paths: the saved word tables in force so far, by version, oldest first.
        vocabulary_path: the vocabulary, None where it is missing.
        config_text: `config.toml` as it stands, None where it is missing.
    """

    directory: Path
    starts: list[Record]
    train: list[Record]
    valid: list[Record]
    reallocations: list[Record]
    kept: list[Record]
    end: Record | None
    last: Record
    elapsed_seconds: float
    num_unreadable_lines: int
    table_paths: dict[int, Path]
    vocabulary_path: Path | None
    config_text: str | None

    @property
    def name(self) -> str:
        """The directory's own name."""
        return self.directory.resolve().name

    @property
    def start(self) -> Record:
        """What the last start said of the run; empty where it was not logged."""
        return self.starts[-1] if self.starts else {}


def number(record: Record, key: str) -> float:
    """Return a record's number, NaN where it is absent or not a number."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) else math.nan


def number_or(record: Record, key: str, otherwise: float) -> float:
    """Return a record's number, `otherwise` where it has none."""
    value = number(record, key)
    return otherwise if math.isnan(value) else value


def column(records: Iterable[Record], key: str) -> FloatArray:
    """Return one number of each record, float64 [records]; infinite ones become NaN."""
    values = np.array([number(record, key) for record in records], dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def read_run(directory: Path) -> RunData:
    """Read a run directory.

    Raises:
        ReportError: it has no metrics yet, or is not a run directory at all.
    """
    records, num_unreadable_lines = _read_records(directory / "metrics.jsonl")
    events = _drop_superseded(records)
    vocabulary_path = directory / "vocabulary.arrow"
    config_path = directory / "config.toml"
    return RunData(
        directory=directory,
        starts=events["start"],
        train=events["train"],
        valid=events["valid"],
        reallocations=events["reallocation"],
        kept=events["kept"],
        end=events["end"][-1] if events["end"] else None,
        last=records[-1],
        elapsed_seconds=_sum_elapsed(records),
        num_unreadable_lines=num_unreadable_lines,
        table_paths=_find_tables(
            directory / "tables", number_or(records[-1], "table_version", math.inf)
        ),
        vocabulary_path=vocabulary_path if vocabulary_path.exists() else None,
        config_text=config_path.read_text("utf-8", "replace") if config_path.exists() else None,
    )


def _read_records(path: Path) -> tuple[list[Record], int]:
    """Read one JSON object a line; a last line without its end is still being written."""
    wanted = "expected the metrics of a training run, one JSON object a line"
    advice = "give the directory that --run-dir named"
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"is unreadable: {error}"
        raise ReportError(f"{path} {reason}, {wanted}; {advice}") from error
    records: list[Record] = []
    num_unreadable = 0
    for position, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and "event" in record:
            records.append(record)
        elif position < len(lines) - 1:
            num_unreadable += 1
    if num_unreadable:
        logger.warning("%s: %d unreadable lines left out", path, num_unreadable)
    if not records:
        raise ReportError(
            f"{path} has no complete line, {wanted}; {advice}, or wait until training has begun"
        )
    return records, num_unreadable


def _drop_superseded(records: list[Record]) -> dict[str, list[Record]]:
    """Sort records by event, without those that a resume from an earlier checkpoint took back."""
    events: dict[str, list[Record]] = {
        event: [] for event in ("start", "train", "valid", "reallocation", "kept", "end")
    }
    for record in records:
        event = record["event"]
        if event == "start":
            step = number_or(record, "step", 0)
            version = number_or(record, "table_version", 0)
            for name in ("train", "valid", "reallocation", "kept"):
                events[name] = [
                    earlier
                    for earlier in events[name]
                    if number_or(earlier, "step", 0) <= step
                    and number_or(earlier, "table_version", 0) <= version
                ]
            events["end"] = []
        if event in events:
            events[event].append(record)
    return events


def _sum_elapsed(records: list[Record]) -> float:
    """Add up the times of all starts: the clock of the records begins anew with each."""
    finished, current = 0.0, math.nan
    for record in records:
        if record["event"] == "start":
            finished += 0.0 if math.isnan(current) else current
        current = number_or(record, "elapsed_seconds", current)
    return finished + current


def _find_tables(directory: Path, version_in_force: float) -> dict[int, Path]:
    """Return the saved tables up to the version in force, oldest first."""
    versions = {
        int(match[1]): path
        for path in directory.glob("table-*.arrow")
        if (match := re.fullmatch(r"table-(\d+)\.arrow", path.name))
    }
    return {
        version: versions[version] for version in sorted(versions) if version <= version_in_force
    }
