"""A reallocation that is cut off while it adds up goes on where it was, and nothing changes."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from launcher_runs import (
    STOPPED,
    assert_same_tensors,
    checkpoint_of,
    measured,
    read_records,
    run,
    send_signal_in_statistics,
)
from safetensors.torch import load_file

from launcher.checkpoints import list_checkpoints
from launcher.checkpoints.tensor_files import write_tensors
from launcher.run_dir import RunDirectory
from lightrnn import WordTable

Options = Callable[..., list[str]]

LAST, REALLOCATION = 36, 30
EVENTS = ("train", "valid", "reallocation")
ALWAYS = 1e-9
"""Minutes after which it is always time to save."""


@pytest.fixture(scope="module")
def uninterrupted(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two processes, with a reallocation near its end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run("train", options_of(tiny, folder / "run"), folder / "logs", 2).check()
    return folder / "run"


@pytest.fixture(scope="module")
def killed(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run, killed at batch 20 of the statistics, which were kept now and then."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = options_of(tiny, folder / "run", checkpoint__every_minutes=ALWAYS)
    hooks = {1: send_signal_in_statistics(signal.SIGKILL, 20)}
    ended = run("train", arguments, folder / "logs", 2, hooks)
    assert ended.statuses[1] == -signal.SIGKILL
    assert ended.statuses[0] > 0
    assert kept(folder / "run") == ["batch-00000016"]
    return folder / "run"


def options_of(tiny: Options, run_dir: Path, **settings: object) -> list[str]:
    return tiny(run_dir, train__epochs=0.6, checkpoint__keep=2, **settings)


def kept(run_dir: Path) -> list[str]:
    return sorted(path.name for path in (run_dir / "statistics").glob("*"))


def newest(run_dir: Path) -> str:
    return list_checkpoints(RunDirectory(run_dir))[-1].name


def assert_same_run(one: Path, other: Path) -> None:
    assert measured(one, *EVENTS) == measured(other, *EVENTS)
    assert_same_tensors(checkpoint_of(one, LAST), checkpoint_of(other, LAST))
    assert kept(one) == kept(other) == []


def test_a_killed_pass_goes_on_where_it_was(
    uninterrupted: Path, killed: Path, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(killed, run_dir)
    assert newest(run_dir) == f"before-reallocation-{REALLOCATION:08d}"
    verified = run("lightrnn", ["verify", str(run_dir)], tmp_path / "verified").check()
    assert "statistics/batch-00000016" in verified.errors[0]
    ended = run("train", options_of(tiny, run_dir), tmp_path / "logs", 2).check()
    assert "going on after 16 batches" in ended.errors[0]
    assert_same_run(run_dir, uninterrupted)


@pytest.mark.parametrize("size", [1, 3])
def test_a_killed_pass_goes_on_with_other_processes(
    uninterrupted: Path, killed: Path, tiny: Options, tmp_path: Path, size: int
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(killed, run_dir)
    ended = run("train", options_of(tiny, run_dir), tmp_path / "logs", size).check()
    assert "going on after 16 batches" in ended.errors[0]
    (ours,), (theirs,) = (read_records(path, "reallocation") for path in (run_dir, uninterrupted))
    for name in ("tokens", "words_moved", "table_version", "accepted"):
        assert ours[name] == theirs[name]
    for name in ("loss_before", "loss_predicted", "lower_bound", "standard_error", "loss_after"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name
    one, other = (
        WordTable.load(path / "tables" / "table-0001.arrow") for path in (run_dir, uninterrupted)
    )
    assert one == other


def test_damaged_sums_are_told_and_not_used(
    uninterrupted: Path, killed: Path, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(killed, run_dir)
    path = run_dir / "statistics" / "batch-00000016" / "rank-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    verified = run("lightrnn", ["verify", str(run_dir)], tmp_path / "verified").check(2)
    assert "rank-00001.safetensors is damaged" in verified.errors[0]
    ended = run("train", options_of(tiny, run_dir), tmp_path / "logs", 2).check()
    assert "rank-00001.safetensors is damaged" in ended.errors[0]
    assert "going on after" not in ended.errors[0]
    assert_same_run(run_dir, uninterrupted)


def test_sums_of_other_parameters_are_not_used(
    uninterrupted: Path, killed: Path, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(killed, run_dir)
    marker = run_dir / "statistics" / "batch-00000016" / "meta.json"
    content = json.loads(marker.read_text())
    content["key"]["parameters_sha256"] = "0" * 64
    marker.write_text(json.dumps(content))
    ended = run("train", options_of(tiny, run_dir), tmp_path / "logs", 2).check()
    assert "going on after" not in ended.errors[0]
    assert_same_run(run_dir, uninterrupted)


def test_a_stop_is_noticed_while_adding_up(
    uninterrupted: Path, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = options_of(tiny, run_dir)
    for batch, batches_kept in ((9, 16), (25, 32), (59, 60)):
        hooks = {1: send_signal_in_statistics(signal.SIGTERM, batch)}
        ended = run("train", arguments, tmp_path / f"stopped-{batch}", 2, hooks).check(STOPPED)
        assert f"stopped at step {REALLOCATION} of {LAST}" in ended.errors[0]
        assert kept(run_dir) == [f"batch-{batches_kept:08d}"]
        assert newest(run_dir) == f"before-reallocation-{REALLOCATION:08d}"
    assert read_records(run_dir, "reallocation") == []
    run("train", arguments, tmp_path / "resumed", 2).check()
    assert_same_run(run_dir, uninterrupted)


def test_tensors_written_block_by_block_are_read_back(tmp_path: Path) -> None:
    tensors = {
        "long": torch.randn(9000, 3, dtype=torch.float64),
        "half": torch.randn(2, 3, 4).bfloat16(),
        "strided": torch.randn(6, 5).t(),
        "none": torch.zeros(0, 2),
    }
    write_tensors(tmp_path / "tensors", tensors)
    found = load_file(tmp_path / "tensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype
