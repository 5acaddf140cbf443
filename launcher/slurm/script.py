"""The batch script of a job, as a pure function of what is asked for.

The script starts one step by `srun`, passes on SLURM's signals, and when the step has ended reads
what became of training from the file that `launcher.stop.leave_status` wrote.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from launcher.job_time import parse_time

Launch = Literal["torchrun", "srun", "mpi"]
Runtime = Literal["apptainer", "pyxis"]

ARRAY_TASK = "%a"
"""Stands for the number of an array's task, as in SLURM's file names."""


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"found {text!r}, expected one line of printable characters")
    return text


def _directive_value(text: str) -> str:
    if "\\" in _one_line(text):
        raise ValueError(f"found {text!r}, which SLURM reads as something else; leave \\ out")
    return text


def _time(text: str) -> str:
    if text and parse_time(text) is None:
        raise ValueError("expected minutes, minutes:seconds, hours:minutes:seconds or days-hours")
    return text


def _array(text: str) -> str:
    if text and not re.fullmatch(r"\d+(-\d+(:\d+)?)?(,\d+(-\d+(:\d+)?)?)*(%\d+)?", text):
        raise ValueError("expected numbers as in 0-15, 1,3,5 or 0-15%4")
    return text


def _long_option(text: str) -> str:
    if not re.match(r"--[a-z]", text):
        raise ValueError("expected an option of sbatch such as --exclusive or --nice=100")
    return text


Text = Annotated[str, AfterValidator(_directive_value)]
Line = Annotated[str, AfterValidator(_one_line)]


def _doc(default: Any, text: str) -> Any:
    return field(default=default, metadata={"doc": text})


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Job:
    """What is asked of SLURM; every option of `lightrnn submit` that is no setting of training."""

    nodes: PositiveInt = _doc(1, "hosts")
    processes_per_node: NonNegativeInt = _doc(0, "processes a host; 0 for one a GPU, or else one")
    gpus_per_node: NonNegativeInt = _doc(0, "GPUs a host")
    cpus_per_process: PositiveInt = _doc(1, "cores, and threads, a process")
    mem: Text = _doc("", "memory a host, such as 64G")
    time: Annotated[Text, AfterValidator(_time)] = _doc("", "time limit of one start of the job")
    partition: Text = _doc("", "partition")
    account: Text = _doc("", "account")
    qos: Text = _doc("", "quality of service")
    constraint: Text = _doc("", "features that the hosts must have")
    job_name: Text = _doc("lightrnn", "name of the job")
    array: Annotated[Text, AfterValidator(_array)] = _doc(
        "", f"numbers of an array's tasks; {ARRAY_TASK} stands for the number in other values"
    )
    launch: Launch = _doc("torchrun", "what starts the processes: torchrun, srun or mpi")
    mpi: Text = _doc("pmi2", "for --launch mpi: value of srun --mpi")
    container: Text = _doc("", "image that the processes run in; empty for none")
    container_runtime: Runtime = _doc("apptainer", "what runs the image")
    container_mounts: Text = _doc("", "folders seen in the container, as its runtime writes them")
    python: Text = _doc("", "interpreter; empty for this one, or python3 in a container")
    sbatch: tuple[Annotated[Text, AfterValidator(_long_option)], ...] = _doc(
        (), "further option of sbatch, such as --exclusive; may be given again"
    )
    shell: tuple[Line, ...] = _doc(
        (), "line of shell before the start, such as 'module load cuda'; may be given again"
    )
    max_requeues: NonNegativeInt = _doc(20, "how often the job may start again before its end")

    @property
    def num_processes_per_node(self) -> int:
        """Processes a host."""
        return self.processes_per_node or self.gpus_per_node or 1


def batch_script(
    job: Job,
    arguments: Sequence[str],
    *,
    folder: str,
    logs: str,
    python: str,
    signal_seconds: int,
) -> str:
    """Return the text of the batch script.

    Args:
        job: what is asked of SLURM.
        arguments: of training.
        folder: that the job works in.
        logs: folder for what the job prints, below `folder` or absolute.
        python: interpreter.
        signal_seconds: how long before its time is over the job is told; 0 for never.
    """
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {one}" for one in _directives(job, folder, logs, signal_seconds)),
        "",
        "# Written by `lightrnn submit`.",
        *job.shell,
        f"job={_JOB_OF_ARRAY if job.array else '$SLURM_JOB_ID'}",
        f"export LIGHTRNN_STATUS_FILE={_shell(logs, job)}/status-$SLURM_JOB_ID",
        f"export OMP_NUM_THREADS={job.cpus_per_process}",
        *_environment(job),
        "",
        "train() {",
        "    trap '' USR1  # until a process is ready for it; torchrun never is",
        "    exec " + " \\\n        ".join(_command(job, arguments, python)),
        "}",
        "export -f train",
        "",
        'rm -f "$LIGHTRNN_STATUS_FILE"',
        _TRAP,
        f"srun {' '.join(_srun_options(job))} bash -c train &",
        _WAIT,
        _END.replace("MAX_REQUEUES", str(job.max_requeues)),
    ]
    return "\n".join(lines)


_JOB_OF_ARRAY = "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"

_TRAP = """\
# SLURM tells this shell before the time is over, or the job is taken off its hosts; srun passes
# USR1 on to every process, and they save a checkpoint.
step=
trap 'kill -USR1 $step 2>/dev/null' USR1 TERM"""

_WAIT = """\
step=$!
while kill -0 $step 2>/dev/null; do wait $step; done"""

_END = """
# What became of training. Without a status its processes were killed, or lost one another.
status=$(cat "$LIGHTRNN_STATUS_FILE" 2>/dev/null || echo lost)
rm -f "$LIGHTRNN_STATUS_FILE"
case $status in 0 | 1 | 2) exit "$status" ;; esac

restarts=${SLURM_RESTART_COUNT:-0}
if [ "$restarts" -ge MAX_REQUEUES ]; then
    echo "training is not at its end ($status), and was started again $restarts times already" >&2
elif [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    echo "training is not at its end ($status): the job is queued again" >&2
    trap - USR1 TERM
    scontrol requeue "$job" && sleep 600  # SLURM ends this shell meanwhile
fi
exit 75
"""


def _directives(job: Job, folder: str, logs: str, signal_seconds: int) -> Iterator[str]:
    """Yield options of sbatch, which takes off the quotes as a shell does."""
    agents = 1 if job.launch == "torchrun" else job.num_processes_per_node
    number = "%A_%a" if job.array else "%j"
    literal_logs = logs if job.array else logs.replace("%", "%%")
    values: dict[str, object] = {
        "job-name": job.job_name,
        "nodes": job.nodes,
        "ntasks-per-node": agents,
        "cpus-per-task": job.cpus_per_process * job.num_processes_per_node // agents,
        "gpus-per-node": job.gpus_per_node or "",
        "mem": job.mem,
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "array": job.array,
        "chdir": folder,
        "output": f"{literal_logs}/slurm-{number}.out",
        "open-mode": "append",
        "signal": f"B:USR1@{signal_seconds}" if signal_seconds else "",
    }
    yield from (f"--{name}={shlex.quote(str(value))}" for name, value in values.items() if value)
    yield "--requeue"
    for option in job.sbatch:
        name, equals, value = option.partition("=")
        yield f"{name}={shlex.quote(value)}" if equals else name


def _environment(job: Job) -> Iterator[str]:
    match job.launch:
        case "torchrun":
            yield "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 TORCH_ELASTIC_SHUTDOWN_TIMEOUT=3600"
            yield 'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
            start = "${SLURM_RESTART_COUNT:-0}"
            yield f"MASTER_PORT=$((20000 + (101 * SLURM_JOB_ID + 11 * {start}) % 12000))"
            yield "export MASTER_ADDR MASTER_PORT"
        case "mpi":
            yield "export LIGHTRNN_START=mpi"


def _srun_options(job: Job) -> Iterator[str]:
    yield "--kill-on-bad-exit=1"
    yield '--cpus-per-task="$SLURM_CPUS_PER_TASK"'
    if job.launch == "mpi":
        yield f"--mpi={_shell(job.mpi, job)}"
    if job.container and job.container_runtime == "pyxis":
        yield f"--container-image={_shell(job.container, job)}"
        if job.container_mounts:
            yield f"--container-mounts={_shell(job.container_mounts, job)}"


def _command(job: Job, arguments: Sequence[str], python: str) -> Iterator[str]:
    """Yield the parts of the command that trains, each for a line."""
    if job.container and job.container_runtime == "apptainer":
        gpus = " --nv" if job.gpus_per_node else ""
        mounts = f" --bind {_shell(job.container_mounts, job)}" if job.container_mounts else ""
        yield f"apptainer exec{gpus}{mounts} {_shell(job.container, job)}"
    if job.launch == "torchrun":
        yield f"{_shell(python, job)} -m torch.distributed.run"
        yield '--nnodes "$SLURM_JOB_NUM_NODES" --node-rank "$SLURM_NODEID"'
        yield f"--nproc-per-node {job.num_processes_per_node}"
        yield '--master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"'
        yield "-m launcher.train"
    else:
        yield f"{_shell(python, job)} -m launcher.train"
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        yield f"{_shell(option, job)} {_shell(value, job)}"


def _shell(value: str, job: Job) -> str:
    """Return a value quoted for the shell; in an array with the number of its task."""
    if not job.array:
        return shlex.quote(value)
    parts = (shlex.quote(part) if part else "" for part in value.split(ARRAY_TASK))
    return '"$SLURM_ARRAY_TASK_ID"'.join(parts) or "''"
