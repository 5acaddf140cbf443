"""When the time of the SLURM job ends that this process belongs to."""

import logging
import math
import os
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.settings import SettingsError

log = logging.getLogger("lightrnn")

SQUEUE_SECONDS = 60


@dataclass(frozen=True)
class JobTime:
    """The time that a job was given.

    Attributes:
        limit_seconds: from its start to its end.
        end: time since the epoch, in seconds.
    """

    limit_seconds: float
    end: float


def stop_time(margin_seconds: float, environment: Mapping[str, str] = os.environ) -> float:
    """Return when training should stop, in seconds since the epoch; infinite where nothing ends it.

    Args:
        margin_seconds: before the end of the job; 0 for no stop.
        environment: of a process of the job.

    Raises:
        SettingsError: the margin is as long as the job, or longer.
    """
    job = job_time(environment) if margin_seconds else None
    if job is None:
        return math.inf
    if margin_seconds >= job.limit_seconds:
        raise SettingsError(
            f"checkpoint.seconds_before_end={margin_seconds:g} is not below the job's time limit "
            f"of {job.limit_seconds:g} seconds; lower it, or submit with more --time"
        )
    return job.end - margin_seconds


def job_time(environment: Mapping[str, str]) -> JobTime | None:
    """Return the time of the job, by its variables or SLURM; None outside and for no limit."""
    if "SLURM_JOB_ID" not in environment:
        return None
    try:
        start, end = (float(environment[f"SLURM_JOB_{name}_TIME"]) for name in ("START", "END"))
    except (KeyError, ValueError):
        return _ask_slurm(environment["SLURM_JOB_ID"])
    return JobTime(end - start, end)


def _ask_slurm(job_id: str) -> JobTime | None:
    command = ["squeue", "--noheader", "--jobs", job_id, "--format", "%l %L"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=SQUEUE_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.info("the end of job %s is not known: %s", job_id, error)
        return None
    limit, left = (parse_time(word) for word in [*answer.stdout.split(), "", ""][:2])
    if limit is None or left is None:
        return None
    return JobTime(limit, time.time() + left)


def parse_time(text: str) -> int | None:
    """Return the seconds of a time as SLURM writes and reads it; None for what is no time.

    `minutes`, `minutes:seconds`, `hours:minutes:seconds`, or `days-hours[:minutes[:seconds]]`.
    """
    if not re.fullmatch(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}", text):
        return None
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = [*parts, 0, 0][:3]
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds
