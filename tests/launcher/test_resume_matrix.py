"""From any number of processes to any other: past an epoch's end, and past a reallocation."""

import importlib.util
import shutil
from collections.abc import Callable, Mapping
from itertools import permutations
from pathlib import Path

import pytest
from launcher_runs import (
    assert_same_tensors,
    checkpoint_of,
    measured,
    read_records,
    read_tensors,
    run,
)

from lightrnn import WordTable

Options = Callable[..., list[str]]
Runs = Mapping[int, Path]

SIZES = (1, 2, 3, 4)
BREAK, EPOCH, REALLOCATION, LAST = 17, 20, 23, 26
"""Steps: where runs are broken off, an epoch's end, a reallocation, and the end."""


def options(tiny: Options, run_dir: Path) -> list[str]:
    """Return the options of a run whose ten lanes do not divide evenly among three or four."""
    return tiny(
        run_dir,
        data__bptt=30,
        train__epochs=LAST / EPOCH,
        allocation__epochs=REALLOCATION / EPOCH,
        checkpoint__every_steps=BREAK,
    )


@pytest.fixture(scope="module")
def uninterrupted(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return the same run at every number of processes."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    for size in SIZES:
        run_dir = folder / f"run-{size}"
        run("train", options(tiny, run_dir), folder / f"logs-{size}", size).check()
        (moved,) = read_records(run_dir, "reallocation")
        assert (moved["step"], moved["words_moved"] > 50) == (REALLOCATION, True)
    return {size: folder / f"run-{size}" for size in SIZES}


def broken_off(whole: Path, run_dir: Path) -> Path:
    """Leave a run as it was when its first checkpoint was its newest."""
    shutil.copytree(whole, run_dir)
    for checkpoint in run_dir.glob("checkpoints/step-*"):
        if checkpoint.name > f"step-{BREAK:08d}":
            shutil.rmtree(checkpoint)
    return run_dir


def table_of(run_dir: Path) -> WordTable:
    return WordTable.load(run_dir / "tables" / "table-0001.arrow")


@pytest.mark.parametrize("size", SIZES)
def test_the_same_number_of_processes_goes_on_with_the_same_bits(
    uninterrupted: Runs, tiny: Options, tmp_path: Path, size: int
) -> None:
    whole = uninterrupted[size]
    run_dir = broken_off(whole, tmp_path / "run")
    told = run("train", options(tiny, run_dir), tmp_path / "logs", size).check().errors[0]
    assert f"step-{BREAK:08d}" in told
    events = ("train", "valid", "reallocation")
    assert measured(run_dir, *events) == measured(whole, *events)
    assert_same_tensors(checkpoint_of(run_dir, LAST), checkpoint_of(whole, LAST))
    assert table_of(run_dir) == table_of(whole)


@pytest.mark.parametrize(("before", "after"), list(permutations(SIZES, 2)))
def test_another_number_of_processes_goes_on_to_rounding(
    uninterrupted: Runs, tiny: Options, tmp_path: Path, before: int, after: int
) -> None:
    """With more processes by DDP; with fewer by DeepSpeed, whose stages take turns."""
    run_dir = broken_off(uninterrupted[before], tmp_path / "run")
    arguments = options(tiny, run_dir)
    if after < before and importlib.util.find_spec("deepspeed") is not None:
        stage = (before + after) % 3
        arguments += ["--train.engine", "deepspeed", "--deepspeed.zero_stage", str(stage)]
    run("train", arguments, tmp_path / "logs", after).check()
    assert read_records(run_dir, "start")[-1]["world_size"] == after
    assert_agree(run_dir, uninterrupted[after])


def assert_agree(one: Path, other: Path) -> None:
    """Assert that steps, tables and last checkpoints are those of another run, to rounding."""
    for event, names in {"train": ("loss", "grad_norm"), "valid": ("loss",)}.items():
        ours, others = read_records(one, event), read_records(other, event)
        assert [record["step"] for record in ours] == [record["step"] for record in others]
        for name in names:
            expected = pytest.approx([record[name] for record in others], rel=1e-4)
            assert [record[name] for record in ours] == expected
    assert table_of(one) == table_of(other)
    tensors, expected_tensors = (read_tensors(checkpoint_of(path, LAST)) for path in (one, other))
    assert tensors.keys() == expected_tensors.keys()
    for name, tensor in tensors.items():
        distance = float((tensor.double() - expected_tensors[name].double()).abs().max())
        assert distance <= 2e-3 * max(1.0, float(tensor.abs().max())), name
