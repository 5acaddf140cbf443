"""The commands as users type them: torchrun and lightrnn in interpreters of their own.

Each start costs seconds, so there are few of these; the other tests fork their processes.
"""

import json
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_runs import (
    STOPPED,
    assert_same_tensors,
    checkpoint_of,
    checkpoint_steps,
    measured,
    read_records,
    run,
)

Options = Callable[..., list[str]]

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
TIMEOUT_SECONDS = 240


def environment() -> dict[str, str]:
    """Return the environment without what a launcher has put there, and with this checkout."""
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    # One thread, as the ranks have that these runs are compared with.
    ours = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return {**kept, **ours}


def call(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
    )


def torchrun(world_size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    local = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(world_size)]
    return call([str(SCRIPTS / "torchrun"), *local, *arguments])


@pytest.fixture(scope="module")
def torchrun_run(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that torchrun started with two processes."""
    run_dir = tmp_path_factory.mktemp("torchrun") / "run"
    arguments = tiny(run_dir, data__eval_lanes=2, train__epochs=0.75)
    ended = torchrun(2, "launcher/train.py", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "report.html" in ended.stderr
    return run_dir


def test_torchrun_does_what_forked_ranks_do(
    torchrun_run: Path, tiny: Options, tmp_path: Path
) -> None:
    """So the other tests, which fork, speak for torchrun too."""
    arguments = tiny(tmp_path / "run", data__eval_lanes=2, train__epochs=0.75)
    run("train", arguments, tmp_path / "logs", 2).check()
    events = ("train", "valid", "reallocation", "end")
    assert len(measured(torchrun_run, "train")) == 45
    assert measured(torchrun_run, *events) == measured(tmp_path / "run", *events)
    assert_same_tensors(checkpoint_of(torchrun_run, 45), checkpoint_of(tmp_path / "run", 45))
    assert (torchrun_run / "report.html").is_file()


def test_evaluate_under_torchrun(torchrun_run: Path) -> None:
    """Two evaluation lanes leave the third process without any."""
    ended = torchrun(3, "-m", "launcher.cli", "evaluate", str(torchrun_run), "--split", "test")
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    result = json.loads(line)
    (end,) = read_records(torchrun_run, "end")
    assert (result["split"], result["tokens"]) == ("test", 607)
    assert result["perplexity"] == pytest.approx(end["test_perplexity"], rel=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_command_stops_its_workers_with_a_checkpoint(
    number: signal.Signals, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir, train__epochs=100, checkpoint__every_steps=100_000)
    command = [str(SCRIPTS / "lightrnn"), "train", "--nproc-per-node", "2", *arguments]
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=errors)
    try:
        wait_for_steps(run_dir, 3, process)
        process.send_signal(number)
        status = process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
    text = (tmp_path / "stderr").read_text()
    assert status == STOPPED, text
    assert "Traceback" not in text
    (step,) = checkpoint_steps(run_dir)
    assert f"stopped at step {step} of 6000; start again to go on" in text
    assert [record["step"] for record in read_records(run_dir, "train")] == [*range(1, step + 1)]


def wait_for_steps(run_dir: Path, num_steps: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    metrics = run_dir / "metrics.jsonl"
    while not metrics.is_file() or metrics.read_text().count('"train"') < num_steps:
        assert process.poll() is None, "training ended before it was asked to"
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.05)


def test_the_command_ends_as_its_workers_do(tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", data__corpus=tmp_path / "nowhere")
    ended = call([str(SCRIPTS / "lightrnn"), "train", "--nproc-per-node", "2", *arguments])
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert "Traceback" not in ended.stderr
    assert 1 <= len(lines) <= 2, ended.stderr  # a worker may be ended before it has said its line
    for line in lines:
        assert "nowhere is not a folder" in line
