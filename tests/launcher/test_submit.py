"""The batch script, to the letter and as bash runs it; and what `lightrnn submit` refuses.

Whether SLURM understands the script is seen in `test_slurm`.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launcher_runs import find_no_programs, run

from launcher.job_time import JobTime, job_time, parse_time, stop_time
from launcher.settings import SettingsError
from launcher.slurm.script import Job, batch_script
from launcher.slurm.submit import check, split_options

Options = Callable[..., list[str]]

GOLDEN = Path(__file__).parent / "golden"
TRAINING = ["--config", "configs/ptb.toml", "--run-dir", "runs/it's mine"]
JOBS = {
    "torchrun": Job(nodes=2),
    "srun": Job(
        nodes=4,
        processes_per_node=2,
        cpus_per_process=3,
        mem="64G",
        time="1-00:00:00",
        partition="gpu",
        account="team a",
        qos="long",
        constraint="a100|h100",
        job_name="100% mine",
        launch="srun",
        sbatch=("--exclusive", "--comment=two words"),
        shell=("module load cuda", 'export NCCL_DEBUG="WARN"'),
        max_requeues=3,
    ),
    "mpi": Job(nodes=2, launch="mpi", mpi="pmix", gpus_per_node=4),
    "array": Job(array="0-15%4", launch="srun"),
    "apptainer": Job(
        nodes=2, gpus_per_node=8, container="light rnn.sif", container_mounts="/data,/scratch"
    ),
    "pyxis": Job(
        nodes=2,
        launch="srun",
        container="registry#lightrnn:1",
        container_runtime="pyxis",
        container_mounts="/data:/data",
    ),
}


def script_of(job: Job, folder: str = "/home/me/project", seconds: int = 120) -> str:
    training = [*TRAINING, "--train.seed", "%a"] if job.array else TRAINING
    run_dir = "runs" if job.array else TRAINING[-1]
    return batch_script(
        job,
        training,
        folder=folder,
        logs=f"{run_dir}/logs",
        python="python3",
        signal_seconds=seconds,
    )


@pytest.mark.parametrize("name", JOBS)
def test_scripts_to_the_letter(name: str) -> None:
    """With WRITE_GOLDEN=1 in the environment the expected scripts are written anew."""
    script, path = script_of(JOBS[name]), GOLDEN / f"{name}.sbatch"
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
    assert script == path.read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_no_signal_where_the_end_does_not_matter() -> None:
    assert "--signal" not in script_of(Job(), seconds=0)


# The script as bash runs it, with commands of SLURM that only take down how they were called.

FAKES = {
    "srun": 'echo "srun $*" >> calls\n'
    '[ -n "$STATUS" ] && echo "$STATUS" > "$LIGHTRNN_STATUS_FILE"\n'
    'while [ $# -gt 0 ] && [ "$1" != bash ]; do shift; done; "$@"; exit 1',
    "squeue": 'echo "$STATE"',
    "scontrol": 'echo "scontrol $*" >> calls; [ "$1" = show ] && echo node1; exit 0',
    "sleep": "exit 0",
    "python3": 'printf "%s\\n" "$@" > trained',
}


def run_script(folder: Path, job: Job, **environment: str) -> tuple[int, list[str]]:
    """Run a script in a folder; return its exit status and the calls of SLURM's commands."""
    commands = folder / "bin"
    commands.mkdir()
    for name, text in FAKES.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}\n")
        (commands / name).chmod(0o755)
    (folder / ("runs" if job.array else TRAINING[-1]) / "logs").mkdir(parents=True)
    given = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_NODELIST": "node[1-2]"}
    given |= {"STATUS": "", "STATE": "RUNNING", **environment}
    ended = subprocess.run(
        ["bash"],
        input=script_of(job),
        text=True,
        cwd=folder,
        env={"PATH": f"{commands}:{os.environ['PATH']}", **given},
        check=False,
        timeout=60,
    )
    return ended.returncode, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("environment", "status", "requeued"),
    [
        ({"STATUS": "0"}, 0, False),
        ({"STATUS": "1"}, 1, False),
        ({"STATUS": "2"}, 2, False),
        ({"STATUS": "75"}, 75, True),
        ({"STATUS": ""}, 75, True),
        ({"STATUS": "75", "SLURM_RESTART_COUNT": "2"}, 75, True),
        ({"STATUS": "75", "SLURM_RESTART_COUNT": "3"}, 75, False),
        ({"STATUS": "", "SLURM_RESTART_COUNT": "3"}, 75, False),
        ({"STATUS": "75", "STATE": "COMPLETING"}, 75, False),
    ],
)
def test_what_follows_a_step(
    environment: dict[str, str], status: int, requeued: bool, tmp_path: Path
) -> None:
    """A job that did not reach its target never ends with 0, and starts again so many times."""
    found, calls = run_script(tmp_path, Job(launch="srun", max_requeues=3), **environment)
    assert (found, "scontrol requeue 7" in calls) == (status, requeued)
    assert not list((tmp_path / TRAINING[-1] / "logs").glob("status*"))


def test_an_old_status_does_not_count(tmp_path: Path) -> None:
    left = f'echo 0 > "{TRAINING[-1]}/logs/status-7"'
    assert run_script(tmp_path, Job(launch="srun", shell=(left,)))[0] == 75


def test_arguments_reach_training(tmp_path: Path) -> None:
    run_script(tmp_path, Job(launch="srun"))
    assert (tmp_path / "trained").read_text().splitlines() == ["-m", "launcher.train", *TRAINING]


def test_tasks_of_an_array(tmp_path: Path) -> None:
    """A task is queued again by its number, for its id may be that of the whole array."""
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "12"}
    status, calls = run_script(tmp_path, JOBS["array"], STATUS="75", **array)
    assert status == 75
    assert "scontrol requeue 7_12" in calls
    assert (tmp_path / "trained").read_text().splitlines()[-2:] == ["--train.seed", "12"]


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--partiton", "gpu"], ("--partiton is unknown", "did you mean --partition?")),
        (["--frobnicate", "1"], ("--frobnicate is unknown", "--nodes", "--max-requeues")),
        (["nodes", "2"], ("nodes is unknown",)),
        (["--nodes"], ("--nodes has no value",)),
        (["--nodes", "0"], ("--nodes='0'", "greater than 0")),
        (["--launch", "ssh"], ("--launch='ssh'", "'torchrun', 'srun' or 'mpi'")),
        (["--time", "soon"], ("--time='soon'", "hours:minutes:seconds")),
        (["--array", "a-b"], ("--array='a-b'", "0-15")),
        (["--account", "a\n#SBATCH --qos=x"], ("--account", "one line")),
        (["--account", "a\\b"], ("--account", "leave \\ out")),
        (["--sbatch", "exclusive"], ("--sbatch", "--exclusive")),
        (["--shell", "a\nb"], ("--shell", "one line")),
    ],
)
def test_wrong_options_are_told(arguments: list[str], parts: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as raised:
        split_options(arguments)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("job", "settings", "parts"),
    [
        (Job(nodes=11), {}, ("11 processes", "data.num_lanes=10", "--nodes")),
        (Job(), {"train__max_steps": 5}, ("train.max_steps=5",)),
        (Job(time="2"), {}, ("checkpoint.seconds_before_end=120", "--time=2")),
        (Job(array="1-2"), {}, ("--array=1-2", "share one run directory", "%a")),
        (Job(), {"data__corpus": "nowhere"}, ("nowhere is not a folder",)),
        (Job(), {"config": "none.toml"}, ("none.toml", "--config")),
        (Job(), {"train__epoch": "2"}, ("train.epoch", "did you mean train.epochs?")),
        (Job(), {"table__init": "a\nb"}, ("one line",)),
    ],
)
def test_wrong_runs_are_told_before_they_are_submitted(
    job: Job, settings: dict[str, Any], parts: tuple[str, ...], tiny: Options, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as raised:
        check(job, tiny(tmp_path / "run", **settings))
    for part in parts:
        assert part in str(raised.value)


def test_the_command(tiny: Options, tmp_path: Path) -> None:
    """Without SLURM the script is printed all the same, and nothing is left behind."""
    command = ["submit", "--nodes", "2", *tiny(tmp_path / "run")]
    printed = run("lightrnn", [*command, "--dry-run"], tmp_path / "dry").check()
    assert printed.output.startswith("#!/bin/bash\n#SBATCH --job-name=lightrnn\n")
    ended = run("lightrnn", command, tmp_path / "logs", hooks={0: find_no_programs})
    ended.check_one_line("sbatch is not on the PATH")
    assert not (tmp_path / "run").exists()
    listed = run("lightrnn", ["submit", "--help"], tmp_path / "help").check()
    assert "--max-requeues" in listed.output


# The time of a job.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:01", 7201),
        ("1-2", 93600),
        ("1-2:03", 93780),
        ("1-00:00:00", 86400),
        ("UNLIMITED", None),
        ("", None),
    ],
)
def test_times(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds


def test_the_end_of_a_job() -> None:
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_START_TIME": "1000", "SLURM_JOB_END_TIME": "4600"}
    assert job_time(job) == JobTime(3600, 4600)
    assert job_time({}) is None
    assert stop_time(100, job) == 4500
    assert stop_time(0, job) == stop_time(100, {}) == float("inf")
    with pytest.raises(SettingsError, match="3600 is not below the job's time limit of 3600"):
        stop_time(3600, job)
