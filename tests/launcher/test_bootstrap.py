"""Every way to start is found by its variables, gives the same training, and tells contradictions.

What needs a real SLURM is in `test_slurm`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from launcher_runs import assert_same_tensors, checkpoint_of, free_port, measured, run
from transports import mpiexec_or_skip

from launcher.bootstrap import Place, find_place, first_host, how_started
from launcher.settings import SettingsError

Options = Callable[..., list[str]]

ROOT = Path(__file__).parents[2]
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "one",
    "MASTER_PORT": "29500",
    "GROUP_WORLD_SIZE": "2",
}
SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[09-10]",
}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4"}
HYDRA = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}
TIMEOUT_SECONDS = 240


def test_places() -> None:
    assert find_place({}) == Place("alone", 0, 0, 1)
    assert find_place(TORCHRUN) == Place("torchrun", 3, 1, 4, "one", 29500)
    assert find_place(SRUN) == Place("slurm", 3, 1, 4, "gpu09", 20709)
    one_host = {**SRUN, "SLURM_STEP_NUM_NODES": "1"}
    assert find_place(one_host) == Place("slurm", 3, 1, 4, "127.0.0.1", 20709)
    told = {**SRUN, "MASTER_ADDR": "ib0.gpu09", "MASTER_PORT": "5000"}
    assert find_place(told) == Place("slurm", 3, 1, 4, "ib0.gpu09", 5000)


@pytest.mark.parametrize(
    ("environment", "start"),
    [
        ({**SRUN, **TORCHRUN}, "torchrun"),
        ({**HYDRA, **TORCHRUN}, "torchrun"),
        (HYDRA, "mpi"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0"}, "mpi"),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "mpi"),
        ({**SRUN, **HYDRA}, "mpi"),  # mpiexec in a job starts its own helpers by srun
        ({**SRUN, "PMI_SIZE": "4", "PMI_RANK": "3"}, "slurm"),  # srun --mpi=pmi2
        ({**SRUN, "PMI_SIZE": "4", "LIGHTRNN_START": "mpi"}, "mpi"),
        ({**BATCH, "SLURM_NTASKS": "1"}, "alone"),
        ({**BATCH, "LIGHTRNN_START": "alone"}, "alone"),
    ],
)
def test_how_started(environment: dict[str, str], start: str) -> None:
    assert how_started(environment) == start


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node[001-004,7],other", "node001"),
        ("gpu-a[4,7],gpu-b[1-2]", "gpu-a4"),
        ("rack[1-2]node[3-4]", "rack1node3"),
        ("login,node[1-2]", "login"),
    ],
)
def test_first_host(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        ({"RANK": "0"}, ("has RANK but not LOCAL_RANK, WORLD_SIZE, MASTER_ADDR",)),
        ({**SRUN, "WORLD_SIZE": "4"}, ("has WORLD_SIZE but not RANK", "or unset them")),
        ({**TORCHRUN, "RANK": "4"}, ("rank 4", "of 4 processes", "from 0 to 3")),
        ({**TORCHRUN, "RANK": "x"}, ("RANK='x', expected a number",)),
        ({**SRUN, "SLURM_PROCID": "9"}, ("slurm gave this process rank 9",)),
        ({"LIGHTRNN_START": "slurm"}, ("has LIGHTRNN_START but not SLURM_PROCID",)),
        ({"LIGHTRNN_START": "ssh"}, ("LIGHTRNN_START=ssh, expected auto, alone, torchrun",)),
        (BATCH, ("the SLURM job has 4 tasks", "put srun before the command")),
        (
            {**SRUN, **TORCHRUN, "GROUP_WORLD_SIZE": "1"},
            ("srun started 4 torchruns", "--nnodes 4"),
        ),
        (
            {**HYDRA, **TORCHRUN, "GROUP_WORLD_SIZE": "1"},
            ("mpiexec started 2 torchruns", "--nnodes 2"),
        ),
        pytest.param(
            {"OMPI_COMM_WORLD_SIZE": "2"},
            ("2 processes were started, but the MPI of mpi4py finds 1", "another MPI"),
            marks=pytest.mark.mpi,
        ),
    ],
)
def test_contradictions_are_told(environment: dict[str, str], parts: tuple[str, ...]) -> None:
    if "OMPI_COMM_WORLD_SIZE" in environment:
        pytest.importorskip("mpi4py.MPI", reason="needs lightrnn[mpi]")
    with pytest.raises(SettingsError) as raised:
        find_place(environment)
    for part in parts:
        assert part in str(raised.value)


def test_torchruns_that_lost_the_others_go_on() -> None:
    alone = {**SRUN, **TORCHRUN, "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "1"}
    assert find_place(alone).start == "torchrun"


# Training.


def as_srun_does(rank: int, port: int) -> None:
    """Give a forked rank the variables of `srun` instead of torchrun's."""
    for name in TORCHRUN:
        os.environ.pop(name, None)
    places = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "MASTER_PORT": port}
    sizes = {"SLURM_STEP_NUM_TASKS": 2, "SLURM_STEP_NUM_NODES": 1}
    os.environ.update({**SRUN, **{name: str(n) for name, n in {**places, **sizes}.items()}})


def assert_same_training(one: Path, other: Path) -> None:
    events = ("train", "valid", "reallocation", "end")
    assert len(measured(one, "train")) == 45
    assert measured(one, *events) == measured(other, *events)
    assert_same_tensors(checkpoint_of(one, 45), checkpoint_of(other, 45))


@pytest.fixture(scope="module")
def forked(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two processes with torchrun's variables."""
    folder = tmp_path_factory.mktemp("forked")
    run("train", tiny(folder / "run", train__epochs=0.75), folder / "logs", 2).check()
    return folder / "run"


def test_srun_starts_the_same_training(forked: Path, tiny: Options, tmp_path: Path) -> None:
    hooks = {rank: partial(as_srun_does, rank, port) for port in [free_port()] for rank in (0, 1)}
    arguments = tiny(tmp_path / "run", train__epochs=0.75)
    run("train", arguments, tmp_path / "logs", 2, hooks).check()
    assert_same_training(tmp_path / "run", forked)


def mpiexec(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as two processes of MPI."""
    kept = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    return subprocess.run(
        [mpiexec_or_skip(), "-n", "2", *command],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


@pytest.mark.mpi
def test_mpiexec_starts_the_same_training(forked: Path, tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", train__epochs=0.75)
    ended = mpiexec(sys.executable, "launcher/train.py", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert_same_training(tmp_path / "run", forked)


@pytest.mark.mpi
def test_a_reallocation_over_mpi_gives_the_same_table(
    forked: Path, tiny: Options, tmp_path: Path
) -> None:
    arguments = tiny(tmp_path / "run", train__epochs=0.75, allocation__transport="mpi")
    ended = mpiexec(sys.executable, "-m", "launcher.cli", "train", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert_same_training(tmp_path / "run", forked)


def test_mpi_carries_nothing_where_it_did_not_start_the_processes(
    tiny: Options, tmp_path: Path
) -> None:
    arguments = tiny(tmp_path / "run", allocation__transport="mpi")
    ended = run("train", arguments, tmp_path / "logs", 2)
    ended.check_one_line("allocation.transport=mpi", "MPI finds 1 of the 2 processes", "mpiexec")
