"""Whatever ends a save, an earlier checkpoint is whole and the run goes on to the same end."""

import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launcher_runs import (
    assert_same_tensors,
    checkpoint_of,
    checkpoint_steps,
    kill_in_second_save,
    let_time_pass_at_step,
    measured,
    run,
)

from launcher.checkpoints import list_checkpoints, verify_checkpoint
from launcher.run_dir import RunDirectory

Options = Callable[..., list[str]]

LAST, REALLOCATION = 90, 30
EVENTS = ("train", "valid", "reallocation")


@pytest.fixture(scope="module")
def uninterrupted(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two processes from beginning to end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run("train", tiny(folder / "run"), folder / "logs", 2).check()
    return folder / "run"


def assert_same_run(one: Path, other: Path) -> None:
    assert measured(one, *EVENTS) == measured(other, *EVENTS)
    assert_same_tensors(checkpoint_of(one, LAST), checkpoint_of(other, LAST))


def latest(run_dir: Path) -> str:
    return (run_dir / "checkpoints" / "latest").read_text().strip()


def names(run_dir: Path) -> set[str]:
    return {path.name for path in (run_dir / "checkpoints").iterdir()}


def test_a_save_killed_at_any_moment_leaves_a_whole_checkpoint(
    uninterrupted: Path, tiny: Options, tmp_path: Path
) -> None:
    """One run is killed 20 times, and goes on each time."""
    run_dir, draw = tmp_path / "run", random.Random(1)
    shares = [draw.random() for _ in range(20)]
    for number, share in enumerate(shares):
        mode, rank = ("sync", "async")[number % 2], number // 2 % 2
        arguments = tiny(run_dir, checkpoint__every_steps=2, checkpoint__mode=mode)
        hooks = {rank: kill_in_second_save(share)}
        ended = run("train", arguments, tmp_path / f"killed-{number}", 2, hooks)
        assert ended.statuses[rank] == -signal.SIGKILL, ended.errors
        assert ended.statuses[1 - rank] > 0
        whole = list_checkpoints(RunDirectory(run_dir))
        for checkpoint in whole:
            verify_checkpoint(checkpoint)
        assert latest(run_dir) in {checkpoint.name for checkpoint in whole[-2:]}
    ended = run("train", tiny(run_dir), tmp_path / "resumed", 2).check()
    assert "damaged" not in ended.errors[0]
    assert not [name for name in names(run_dir) if name.startswith(".")]
    assert latest(run_dir) == f"step-{LAST:08d}"
    assert_same_run(run_dir, uninterrupted)


def test_async_checkpoints_hold_what_sync_ones_hold(
    uninterrupted: Path, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run("train", tiny(run_dir, checkpoint__mode="async"), tmp_path / "logs", 2).check()
    assert checkpoint_steps(run_dir) == checkpoint_steps(uninterrupted)
    for checkpoint in list_checkpoints(RunDirectory(run_dir)):
        verify_checkpoint(checkpoint)
        assert_same_tensors(checkpoint, uninterrupted / "checkpoints" / checkpoint.name)
    assert_same_run(run_dir, uninterrupted)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    uninterrupted: Path, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    damaged = checkpoint_of(run_dir, LAST)
    (shard,) = damaged.glob("__1_*")
    num_bytes = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-1])
    (checkpoint_of(run_dir, 60) / "meta.json").write_text("{")

    ended = run("train", tiny(run_dir), tmp_path / "logs", 2).check()
    warnings = [line for line in ended.errors[0].splitlines() if "goes on from" in line]
    assert len(warnings) == 2
    assert f"__1_0.distcp is damaged: {num_bytes - 1} bytes" in warnings[0]
    assert "the run goes on from step-00000045" in warnings[0]
    assert "meta.json cannot be read" in warnings[1]
    assert {"damaged-step-00000060", "damaged-step-00000090"} <= names(run_dir)
    assert (run_dir / "checkpoints" / "damaged-step-00000090" / shard.name).is_file()
    assert checkpoint_steps(run_dir) == [REALLOCATION, 45, 60, LAST]
    assert_same_run(run_dir, uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder for checkpoints on a disk of its own, of 1 MiB."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_full_disk_is_one_line_and_costs_no_checkpoint(
    uninterrupted: Path, tiny: Options, tmp_path: Path, small_disk: Path, mode: str
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir, dirs_exist_ok=True)
    for step in (60, LAST):
        shutil.rmtree(checkpoint_of(run_dir, step))
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(shutil.disk_usage(small_disk).free - 40_000))

    arguments = tiny(run_dir, checkpoint__mode=mode, train__log_every_steps=1000)
    ended = run("train", arguments, tmp_path / "full", 2).check(2)
    for text in ended.errors:
        errors = [line for line in text.splitlines() if "error" in line]
        assert len(errors) == 1
        assert "step-00000060 cannot be written (No space left on device)" in errors[0]
        assert "Traceback" not in text
    assert checkpoint_steps(run_dir) == [REALLOCATION, 45]
    verify_checkpoint(checkpoint_of(run_dir, 45))
    assert names(run_dir) == {"latest", "filler", "step-00000030", "step-00000045"}

    filler.unlink()
    run("train", tiny(run_dir), tmp_path / "resumed", 2).check()
    assert_same_tensors(checkpoint_of(run_dir, LAST), checkpoint_of(uninterrupted, LAST))


def test_time_that_passes_on_rank_0_calls_for_a_checkpoint(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = {"train__epochs": 0.4, "checkpoint__every_minutes": 30}
    hooks = {0: let_time_pass_at_step(7, 30), 1: let_time_pass_at_step(15, 1000)}
    run("train", tiny(run_dir, **settings), tmp_path / "logs", 2, hooks).check()
    assert checkpoint_steps(run_dir) == [8, 24]
