"""The command `lightrnn submit`: a training run as a job of SLURM."""

import dataclasses
import logging
import shutil
import subprocess
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from data_shards import Corpus
from launcher.job_time import parse_time
from launcher.run_dir import RunDirectory, replace_file
from launcher.settings import Settings, SettingsError, load_settings
from launcher.slurm.script import ARRAY_TASK, Job, batch_script

log = logging.getLogger("lightrnn")

SCRIPT = "submit.sbatch"
"""Name of the batch script in the run directory."""

_NAMES = [one.name for one in dataclasses.fields(Job)]
_REPEATED = "sbatch", "shell"
_OF_TRAINING = "config", "run_dir"
_ADAPTER = TypeAdapter(Job)

USAGE = """\
lightrnn submit --nodes N --config FILE --run-dir DIR [--section.key value ...] [--dry-run]

Write the batch script of a training run to its directory, and submit it to SLURM. The job saves a
checkpoint before its time is over, and starts again until training is at its end.

  --dry-run  print the script; nothing is written or submitted
"""


def submit(arguments: Sequence[str]) -> int:
    """Write and submit the batch script that the command line asks for; return the exit status.

    Raises:
        LightRNNError, CorpusError: wrong input, before anything is submitted.
    """
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"{USAGE}{describe_job()}\nAll other options are those of training.\n")
        return 0
    dry_run = "--dry-run" in arguments
    job, training = split_options([one for one in arguments if one != "--dry-run"])
    settings = check(job, training)
    run = _folder_of(job, training)
    python = job.python or ("python3" if job.container else sys.executable)
    script = batch_script(
        job,
        training,
        folder=str(Path.cwd()),
        logs=str(run / "logs"),
        python=python,
        signal_seconds=round(settings.checkpoint.seconds_before_end),
    )
    if dry_run:
        sys.stdout.write(script)
        return 0
    if shutil.which("sbatch") is None:
        raise SettingsError(
            "sbatch is not on the PATH, expected the client of SLURM; submit from a login host, or "
            "print the script by --dry-run"
        )
    RunDirectory(run).create()
    path = run / SCRIPT
    replace_file(path, script.encode())
    ended = subprocess.run(
        ["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise SettingsError(f"sbatch refused {path}: {ended.stderr}")
    job_id = ended.stdout.strip().partition(";")[0]
    log.info("submitted %s as job %s; it prints to %s", path, job_id, run / "logs")
    sys.stdout.write(f"{job_id}\n")
    return 0


def split_options(arguments: Sequence[str]) -> tuple[Job, list[str]]:
    """Return what is asked of SLURM, and the options of training.

    Raises:
        SettingsError: an option is unknown, has no value, or has a wrong one.
    """
    asked: dict[str, str | list[str]] = {}
    training: list[str] = []
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        name, equals, value = option.removeprefix("--").partition("=")
        field = name.replace("-", "_")
        of_training = "." in name or field in _OF_TRAINING
        if not option.startswith("--") or not (of_training or field in _NAMES):
            raise SettingsError(_unknown(option))
        if not equals:
            if not rest:
                raise SettingsError(f"option {option} has no value, expected {option} VALUE")
            value = rest.pop(0)
        if of_training:
            training += [f"--{name}", value]
        elif field in _REPEATED:
            asked.setdefault(field, []).append(value)  # type: ignore[union-attr]
        else:
            asked[field] = value
    try:
        return _ADAPTER.validate_python(asked), training
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]).replace("_", "-")
        message = problem["msg"].removeprefix("Value error, ")
        raise SettingsError(f"--{name}={problem['input']!r}: {message}; change it") from None


def check(job: Job, training: Sequence[str]) -> Settings:
    """Return the settings of the run, found fit for the job.

    Raises:
        LightRNNError, CorpusError: a setting is wrong, contradicts the job, or the corpus is none.
    """
    first = job.array.partition(",")[0].partition("-")[0].partition("%")[0]
    for value in training:
        if not value.isprintable():
            raise SettingsError(f"found {value!r}, expected one line of printable characters")
    options = [one.replace(ARRAY_TASK, first) for one in training] if job.array else training
    settings = load_settings(options)
    if job.array and not any(ARRAY_TASK in one for one in _run_dir(training)):
        raise SettingsError(
            f"the tasks of --array={job.array} would share one run directory; put {ARRAY_TASK}, "
            "which stands for the number of the task, into --run-dir"
        )
    Corpus.open(Path(settings.data.corpus))
    num_processes = job.nodes * job.num_processes_per_node
    if num_processes > settings.data.num_lanes:
        raise SettingsError(
            f"the job has {num_processes} processes, but data.num_lanes="
            f"{settings.data.num_lanes} lanes; ask for fewer --nodes or raise data.num_lanes"
        )
    if settings.train.max_steps:
        raise SettingsError(
            f"train.max_steps={settings.train.max_steps} stops training before its end, and the "
            "job would start again; leave it at 0"
        )
    margin, limit = settings.checkpoint.seconds_before_end, parse_time(job.time)
    if limit is not None and margin >= limit:
        raise SettingsError(
            f"checkpoint.seconds_before_end={margin:g} is not below --time={job.time}; lower it, "
            "or raise --time"
        )
    return settings


def describe_job() -> str:
    """Return one line an option: name, meaning, default."""
    rows = [
        (f"--{one.name.replace('_', '-')}", one.metadata["doc"], one.default)
        for one in dataclasses.fields(Job)
    ]
    width = max(len(option) for option, _, _ in rows)
    lines = [f"  {name:<{width}}  {doc} [{default or 'none'}]\n" for name, doc, default in rows]
    return "".join(lines)


def _run_dir(training: Sequence[str]) -> list[str]:
    pairs = zip(training[::2], training[1::2], strict=True)
    return [value for option, value in pairs if option.replace("_", "-") == "--run-dir"]


def _folder_of(job: Job, training: Sequence[str]) -> Path:
    """Return the folder for script and logs: the run directory, or the one above an array's."""
    path = Path(_run_dir(training)[-1])
    while job.array and ARRAY_TASK in str(path):
        path = path.parent
    return path


def _unknown(option: str) -> str:
    valid = [f"--{name.replace('_', '-')}" for name in (*_NAMES, *_OF_TRAINING, "dry_run")]
    near = get_close_matches(option.partition("=")[0], valid, n=1, cutoff=0.7)
    hint = f"did you mean {near[0]}?" if near else f"expected --section.key, {', '.join(valid)}"
    return f"option {option} is unknown; {hint}"
