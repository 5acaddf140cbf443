"""Jobs of a real SLURM: they train to the end, whatever happens to them on the way.

The nodes of the cluster are daemons on this machine. The jobs that something happens to are
submitted together, and train side by side.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cluster.paced_python import FIRST_SLOW_STEP, write_paced_python
from cluster.slurm_cluster import SlurmCluster, running_cluster
from launcher_runs import assert_same_tensors, checkpoint_of, measured, read_records, run

pytestmark = pytest.mark.slurm

Options = Callable[..., list[str]]
Runs = dict[int, Path]

ROOT = Path(__file__).parents[2]
NUM_NODES = 4
TIMEOUT_SECONDS = 400
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def enter(environment: dict[str, str], folder: Path) -> None:
    """Let a command find the cluster, and what it submits this checkout."""
    os.environ.update(environment, PYTHONPATH=str(ROOT))
    os.chdir(folder)


class Jobs:
    """Submits training runs to the cluster, and follows them."""

    def __init__(self, cluster: SlurmCluster, tiny: Options, folder: Path) -> None:
        self.cluster, self.tiny, self.folder = cluster, tiny, folder
        self.run_dirs: dict[str, Path] = {}

    def submit(self, name: str, *options: str, **settings: object) -> str:
        """Submit a run as a user does; return the job's id."""
        run_dir = self.folder / name
        training = self.tiny(run_dir, **{"checkpoint__seconds_before_end": 40, **settings})
        logs = self.folder / f"submit {name}"
        hooks = {0: partial(enter, self.cluster.environment, self.folder)}
        ended = run("lightrnn", ["submit", *options, *training], logs, hooks=hooks)
        job_id = ended.check().output.strip()
        self.run_dirs[job_id] = run_dir
        return job_id

    def state(self, job_id: str) -> str:
        """Return the state of a job as SLURM names it."""
        return self.cluster.job(job_id)["JobState"]

    def wait(self, job_id: str, until: Callable[[], bool], what: str) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not until():
            assert time.monotonic() < deadline, f"{what} took too long\n{self.output(job_id)}"
            time.sleep(0.5)

    def wait_for_slow_steps(self, job_id: str) -> None:
        """Wait until training is where it goes slowly, in the job's first life."""
        metrics = self.run_dirs[job_id] / "metrics.jsonl"
        line = f'"step": {FIRST_SLOW_STEP}'
        self.wait(job_id, lambda: metrics.is_file() and line in metrics.read_text(), "training")

    def end(self, job_id: str, state: str = "COMPLETED") -> dict[str, str]:
        """Wait for the end of a job; return what SLURM knows of it."""
        self.wait(job_id, lambda: self.state(job_id) in ENDED, "the job")
        job = self.cluster.job(job_id)
        assert job["JobState"] == state, f"{job}\n{self.output(job_id)}"
        return job

    def output(self, job_id: str) -> str:
        """Return what a job has printed."""
        path = self.run_dirs[job_id] / "logs" / f"slurm-{job_id}.out"
        return path.read_text() if path.is_file() else ""

    def kill_on_node(self, job_id: str, node: str) -> None:
        """Kill a job's processes on a node, as the kernel does where memory is short."""
        own = {f"SLURM_JOB_ID={job_id}", f"SLURMD_NODENAME={node}", "SLURM_STEP_ID=0"}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                variables = (process / "environ").read_text(errors="replace").split("\0")
            except OSError:
                continue
            if own <= set(variables):
                os.kill(int(process.name), signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with running_cluster(NUM_NODES) as running:
        yield running


@pytest.fixture(scope="module")
def jobs(cluster: SlurmCluster, tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(cluster, tiny, tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def harmed(jobs: Jobs) -> dict[str, str]:
    """Return jobs of two nodes each, by what was done to them when they trained side by side."""
    python = ["--python", str(write_paced_python(jobs.folder / "python")), "--nodes", "2"]
    long = [*python, "--time", "30"]
    submitted = {
        "time limit": jobs.submit("limit", *python, "--time", "2"),
        "requeue": jobs.submit("requeue", *long, "--launch", "srun"),
        "killed": jobs.submit("killed", *long),
        "step": jobs.submit("step", *long, "--launch", "srun"),
    }
    jobs.wait_for_slow_steps(submitted["requeue"])
    jobs.cluster.ask("scontrol", "requeue", submitted["requeue"])
    jobs.wait_for_slow_steps(submitted["step"])
    jobs.cluster.ask("scancel", f"{submitted['step']}.0")
    jobs.wait_for_slow_steps(submitted["killed"])
    nodes = jobs.cluster.job(submitted["killed"])["NodeList"]
    last = jobs.cluster.ask("scontrol", "show", "hostnames", nodes).split()[-1]
    jobs.kill_on_node(submitted["killed"], last)
    return submitted


@pytest.fixture(scope="module")
def uninterrupted(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return whole runs that nobody disturbs, by their number of processes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    for world_size in (2, 4):
        run_dir = folder / str(world_size)
        run("train", tiny(run_dir), folder / f"logs {world_size}", world_size).check()
    return {world_size: folder / str(world_size) for world_size in (2, 4)}


def assert_same_end(run_dir: Path, other: Path) -> None:
    """Assert that two runs have the same losses, tables and parameters, bit for bit."""
    events = ("train", "valid", "reallocation", "end")
    assert measured(run_dir, *events) == measured(other, *events)
    assert_same_tensors(checkpoint_of(run_dir, 90), checkpoint_of(other, 90))
    table = "tables/table-0001.arrow"
    assert (run_dir / table).read_bytes() == (other / table).read_bytes()


def check_restarted(jobs: Jobs, job_id: str, uninterrupted: Runs) -> None:
    """Check that a job started again, and ended as if nothing had happened."""
    job = jobs.end(job_id)
    assert int(job["Restarts"]) >= 1
    assert "resumed from" in jobs.output(job_id)
    assert_same_end(jobs.run_dirs[job_id], uninterrupted[2])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("time limit", "(75): the job is queued again"),
        ("requeue", "resumed from"),
        ("killed", "(lost): the job is queued again"),
        ("step", "(lost): the job is queued again"),
    ],
)
def test_jobs_survive(
    harm: str, told: str, harmed: dict[str, str], jobs: Jobs, uninterrupted: Runs
) -> None:
    """Time limit, `scontrol requeue`, killed processes of a node, `scancel` of the step."""
    check_restarted(jobs, harmed[harm], uninterrupted)
    assert told in jobs.output(harmed[harm])


@pytest.mark.parametrize(("num_nodes", "launch"), [(2, "torchrun"), (4, "srun")])
def test_jobs_train_to_the_end(
    num_nodes: int, launch: str, jobs: Jobs, uninterrupted: Runs
) -> None:
    options = ["--nodes", str(num_nodes), "--launch", launch, "--time", "30"]
    job_id = jobs.submit(f"whole {launch}", *options)
    jobs.end(job_id)
    run_dir = jobs.run_dirs[job_id]
    assert_same_end(run_dir, uninterrupted[num_nodes])
    assert (run_dir / "submit.sbatch").is_file()
    logs = {path.name for path in (run_dir / "logs").iterdir()}
    ranks = {f"job-{job_id}-rank-{rank:05d}.log" for rank in range(num_nodes)}
    assert logs == {f"slurm-{job_id}.out", *ranks}


@pytest.mark.mpi
def test_a_job_over_mpi(jobs: Jobs, uninterrupted: Runs) -> None:
    pytest.importorskip("mpi4py.MPI", reason="needs lightrnn[mpi]")
    options = ["--nodes", "2", "--launch", "mpi", "--time", "30"]
    job_id = jobs.submit("mpi", *options, allocation__transport="mpi")
    jobs.end(job_id)
    assert_same_end(jobs.run_dirs[job_id], uninterrupted[2])


def test_preemption(jobs: Jobs, uninterrupted: Runs) -> None:
    """SLURM ends the step first, and the job later; a job that ended itself would count as done."""
    python = str(write_paced_python(jobs.folder / "preempted-python"))
    options = ["--nodes", "2", "--launch", "srun", "--time", "30", "--python", python]
    job_id = jobs.submit("preempted", *options)
    jobs.wait_for_slow_steps(job_id)
    urgent = ["--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null"]
    jobs.cluster.ask("sbatch", *urgent, "--wrap", "sleep 1")
    check_restarted(jobs, job_id, uninterrupted)


def test_jobs_that_do_not_start_again(jobs: Jobs) -> None:
    """One was cancelled, and one was started as often as it may be; neither ends as done."""
    python = str(write_paced_python(jobs.folder / "stopped-python"))
    options = ["--launch", "srun", "--time", "30", "--python", python, "--max-requeues", "0"]
    cancelled, bounded = (jobs.submit(name, *options) for name in ("cancelled", "bounded"))
    for job_id in (cancelled, bounded):
        jobs.wait_for_slow_steps(job_id)
    jobs.cluster.ask("scancel", cancelled)
    jobs.cluster.ask("scancel", "--signal=USR1", bounded)
    assert jobs.end(bounded, "FAILED")["ExitCode"] == "75:0"
    assert jobs.end(cancelled, "CANCELLED")["Restarts"] == "0"
    (last, *_) = read_records(jobs.run_dirs[bounded], "train")[::-1]
    assert checkpoint_of(jobs.run_dirs[bounded], last["step"]).is_dir()


@pytest.mark.parametrize("name", ["torchrun", "srun", "mpi"])
def test_the_examples_work_as_they_are(
    name: str, cluster: SlurmCluster, corpus: Path, tmp_path: Path
) -> None:
    if name == "mpi":
        pytest.importorskip("mpi4py.MPI", reason="needs lightrnn[mpi]")
    (tmp_path / "corpora").mkdir()
    links = {"launcher": ROOT / "launcher", "configs": ROOT / "configs", "corpora/demo": corpus}
    for link, target in {**links, ".venv": Path(sys.prefix)}.items():
        (tmp_path / link).symlink_to(target)
    short = ["--train.epochs", "0.5", "--table.init", "random"]
    cluster.call("sbatch", "--wait", f"launcher/slurm/{name}.sbatch", *short, cwd=tmp_path)
    (start,) = read_records(tmp_path / "runs" / f"slurm-{name}", "start")
    assert start["world_size"] == 2
    assert read_records(tmp_path / "runs" / f"slurm-{name}", "end")
    assert [path.suffix for path in tmp_path.glob("slurm-*")] == [".out"]
