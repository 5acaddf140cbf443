"""Own vectors, dropout everywhere and averages: the same at any number of processes, and resumed.

Together in each run, since every run costs seconds: what one of them breaks shows in the sum.
"""

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
    read_tensors,
    run,
)

from launcher.checkpoints import load_model, read_meta
from lightrnn import LightRNN, ModelShape

Options = Callable[..., list[str]]

LAST = 45
EVERYTHING = {
    "model__word_size": 4,
    "model__num_layers": 2,
    "model__input_dropout": 0.1,
    "model__hidden_dropout": 0.3,
    "model__output_dropout": 0.2,
    "model__weight_dropout": 0.2,
    "model__word_dropout": 0.1,
    "model__variational": "true",
    "train__average_decay": 0.9,
    "train__epochs": 0.75,
    "allocation__when": "never",
}


@pytest.fixture(scope="module")
def runs(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the same run at 1 and 2 processes."""
    folder = tmp_path_factory.mktemp("everything")
    folders = {size: folder / f"run-{size}" for size in (1, 2)}
    for size, run_dir in folders.items():
        run("train", tiny(run_dir, **EVERYTHING), folder / f"logs-{size}", size).check()
    return folders


def test_any_number_of_processes_trains_alike(runs: dict[int, Path]) -> None:
    for event in ("train", "valid"):
        ones, others = (read_records(path, event) for path in runs.values())
        assert len(ones) == len(others) > 0
        for one, other in zip(ones, others, strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4), one["step"]
    losses = [record["loss"] for record in read_records(runs[1], "train")]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_what_is_validated_and_loaded_are_the_averages(runs: dict[int, Path]) -> None:
    checkpoint = checkpoint_of(runs[1], LAST)
    tensors = read_tensors(checkpoint)
    model = LightRNN(ModelShape(16, 16, 12, 16, num_layers=2, word_size=4), num_words=250)
    load_model(checkpoint, read_meta(checkpoint), model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, tensors[f"averaged.{name}"]), name
        assert not torch.equal(parameter, tensors[f"model.{name}"]), name
    (end,) = read_records(runs[1], "end")
    evaluated = run("lightrnn", ["evaluate", str(runs[1])], runs[1].with_name("evaluate"), 1)
    found = evaluated.check().output
    assert f'"perplexity": {end["test_perplexity"]:.5f}'[:-1] in found


def test_stopping_and_resuming_changes_no_bit(
    runs: dict[int, Path], tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir, **EVERYTHING)
    stopped = run("train", [*arguments, "--train.max_steps", "17"], tmp_path / "a", 2)
    stopped.check(STOPPED)
    run("train", [*arguments, "--train.max_steps", "0"], tmp_path / "b", 2).check()
    assert measured(run_dir, "train", "valid") == measured(runs[2], "train", "valid")
    assert_same_tensors(checkpoint_of(run_dir, LAST), checkpoint_of(runs[2], LAST))


def test_averages_may_begin_in_a_resumed_run(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir, train__epochs=0.2, allocation__when="never")
    run("train", [*arguments, "--train.max_steps", "11"], tmp_path / "a", 1).check(STOPPED)
    goes_on = [*arguments, "--train.max_steps", "0", "--train.average_decay", "0.5"]
    run("train", goes_on, tmp_path / "b", 1).check()
    (before, after) = (read_tensors(checkpoint_of(run_dir, step)) for step in (11, 12))
    name = "row_head.bias"
    # From the parameters of step 11 half the way to those of step 12.
    expected = (before[f"model.{name}"] + after[f"model.{name}"]) / 2
    torch.testing.assert_close(after[f"averaged.{name}"], expected)
