"""The number of processes changes nothing but the speed, and no interruption changes anything."""

import json
import math
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher_runs import (
    STOPPED,
    assert_same_tensors,
    checkpoint_of,
    checkpoint_steps,
    measured,
    read_records,
    read_tensors,
    run,
    send_signal_at_step,
)

from data_shards import Corpus, LaneBatches
from launcher.checkpoints import load_model, read_meta
from lightrnn import LightRNN, ModelShape, WordTable
from lightrnn.dropout import dropout_keys

Options = Callable[..., list[str]]
Runs = Mapping[int, Path]

LAST, REALLOCATION, EPOCH = 90, 30, 60
"""Steps of the runs that `tiny` gives: all, before the reallocation, an epoch."""

EVENTS = ("train", "valid", "reallocation")


@pytest.fixture(scope="module")
def uninterrupted(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return the same run at 1, 2 and 4 processes, from beginning to end."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    runs = {size: folder / f"run-{size}" for size in (1, 2, 4)}
    for size, run_dir in runs.items():
        run("train", tiny(run_dir), folder / f"logs-{size}", size).check()
    return runs


def train_by_parts(
    run_dir: Path, arguments: list[str], stops: Sequence[int], sizes: Sequence[int]
) -> None:
    """Stop at each of `stops`, each time with the next of `sizes`; go on to the end at last."""
    for stop, size in zip([*stops, 0], sizes, strict=True):
        stopping = [*arguments, "--train.max_steps", str(stop)]
        ended = run("train", stopping, run_dir.with_name(f"logs-{stop}"), size)
        ended.check(STOPPED if stop else 0)
        assert checkpoint_steps(run_dir)[-1] == (stop or LAST)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that everything the runs logged and their last checkpoints are equal, bit for bit."""
    assert measured(one, *EVENTS) == measured(other, *EVENTS)
    assert_same_tensors(checkpoint_of(one, LAST), checkpoint_of(other, LAST))
    ours, others = (read_meta(checkpoint_of(path, LAST)) for path in (one, other))
    assert {**vars(ours), "files": 0} == {**vars(others), "files": 0}


def assert_close_run(one: Path, other: Path) -> None:
    """Assert that losses agree to 1e-4 and that tables are the same."""
    for event, names in {
        "train": ("loss", "row_loss", "column_loss", "grad_norm", "learning_rate"),
        "valid": ("loss", "row_loss", "column_loss"),
        "reallocation": ("loss_before", "loss_predicted", "loss_after", "valid_perplexity_after"),
    }.items():
        ours, others = read_records(one, event), read_records(other, event)
        for key in ("step", "table_version", "tokens"):
            assert [record[key] for record in ours] == [record[key] for record in others]
        for name in names:
            for our, their in zip(ours, others, strict=True):
                assert our[name] == pytest.approx(their[name], rel=1e-4), (name, our["step"])
    assert tables_of(one) == tables_of(other)


def tables_of(run_dir: Path) -> list[str]:
    return [WordTable.load(path).fingerprint for path in sorted(run_dir.glob("tables/*.arrow"))]


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_trains_alike(uninterrupted: Runs, size: int) -> None:
    alone = uninterrupted[1]
    steps = [record["step"] for record in read_records(alone, "train")]
    assert steps == list(range(1, LAST + 1))
    assert_close_run(alone, uninterrupted[size])
    ones, others = (read_tensors(checkpoint_of(uninterrupted[n], LAST)) for n in (1, size))
    assert ones.keys() == others.keys()
    for name, tensor in ones.items():
        distance = float((tensor.double() - others[name].double()).abs().max())
        assert distance <= 2e-3 * max(1.0, float(tensor.abs().max())), name


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("step", [45, EPOCH])
def test_a_step_goes_on_from_its_checkpoint(uninterrupted: Runs, corpus: Path, step: int) -> None:
    """Step 46 computed here: every lane reads on where it was. Step 61: all begin anew."""
    checkpoint = checkpoint_of(uninterrupted[4], step)
    tensors = read_tensors(checkpoint)
    model = LightRNN(ModelShape(16, 16, 12, 16), num_words=250, dropout=0.2)
    load_model(checkpoint, read_meta(checkpoint), model)
    lane_states = torch.stack([tensors[f"lane_states.{n:06d}"] for n in range(10)], dim=2)
    assert lane_states.abs().min() > 0
    if step == EPOCH:
        lane_states = model.initial_state(10)
    batch = LaneBatches(Corpus.open(corpus).split("train"), 10, 10, range(10)).batch(step % EPOCH)
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    keys = dropout_keys(1, step, range(10), torch.device("cpu"))
    with torch.no_grad():
        losses = model(inputs, targets, lane_states, keys)
    record = read_records(uninterrupted[4], "train")[step]
    assert record["step"] == step + 1
    assert record["tokens"] == int((targets >= 0).sum())
    assert record["row_loss"] == pytest.approx(float(losses.row_nll) / record["tokens"], rel=1e-5)
    column_loss = float(losses.column_nll) / record["tokens"]
    assert record["column_loss"] == pytest.approx(column_loss, rel=1e-5)


def test_the_runs_compared_learn_and_move_words(uninterrupted: Runs) -> None:
    """Runs that agree only because nothing happens in them would show nothing."""
    alone = uninterrupted[1]
    losses = [record["loss"] for record in read_records(alone, "train")]
    assert sum(losses[-10:]) < sum(losses[:10]) - 1
    (reallocation,) = read_records(alone, "reallocation")
    assert reallocation["step"] == REALLOCATION
    assert reallocation["words_moved"] > 100
    assert len(set(tables_of(alone))) == 2
    versions = {record["step"]: record["table_version"] for record in read_records(alone, "train")}
    assert (versions[REALLOCATION], versions[REALLOCATION + 1]) == (0, 1)


@pytest.mark.parametrize(
    ("size", "stops"),
    [
        (1, (17, REALLOCATION, 59, EPOCH, 61)),
        (2, (1, 29, REALLOCATION, 31, EPOCH)),
        (4, (29, 77)),
    ],
)
def test_stopping_and_resuming_changes_no_bit(
    uninterrupted: Runs, tiny: Options, tmp_path: Path, size: int, stops: tuple[int, ...]
) -> None:
    run_dir = tmp_path / "run"
    train_by_parts(run_dir, tiny(run_dir), stops, [size] * (len(stops) + 1))
    assert_same_run(run_dir, uninterrupted[size])
    assert tables_of(run_dir) == tables_of(uninterrupted[size])


def test_resuming_with_another_number_of_processes(
    uninterrupted: Runs, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    train_by_parts(run_dir, tiny(run_dir), (17, REALLOCATION, 47), (1, 4, 2, 1))
    assert_close_run(run_dir, uninterrupted[1])


def test_all_ranks_stop_where_one_is_asked_to(
    uninterrupted: Runs, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hooks = {1: send_signal_at_step(signal.SIGTERM, 37)}
    ended = run("train", tiny(run_dir), tmp_path / "stopped", 2, hooks).check(STOPPED)
    # Received in the step after 37, agreed on in the next.
    assert checkpoint_steps(run_dir) == [REALLOCATION, 39]
    assert f"stopped at step 39 of {LAST}; start again to go on" in ended.errors[0]
    assert ended.errors[1] == ""
    run("train", tiny(run_dir), tmp_path / "resumed", 2).check()
    assert_same_run(run_dir, uninterrupted[2])


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    uninterrupted: Runs, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    hooks = {1: send_signal_at_step(signal.SIGKILL, 52)}
    ended = run("train", tiny(run_dir), tmp_path / "killed", 2, hooks)
    assert ended.statuses[1] == -signal.SIGKILL
    assert ended.statuses[0] != 0
    assert checkpoint_steps(run_dir) == [REALLOCATION, 45]
    assert read_records(run_dir)[-1]["step"] > 45
    # What a machine leaves that fails while it writes: a checkpoint without its marker, the
    # temporary folder of another, half a line.
    unfinished = checkpoint_of(run_dir, 50)
    shutil.copytree(checkpoint_of(run_dir, 45), unfinished)
    (unfinished / "meta.json").unlink()
    shutil.copytree(checkpoint_of(run_dir, 45), run_dir / "checkpoints" / ".step-00000051.tmp")
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"event": "train", "st')

    ended = run("train", tiny(run_dir), tmp_path / "resumed", 2).check()
    assert "resumed from" in ended.errors[0]
    assert "step-00000045" in ended.errors[0]
    assert_same_run(run_dir, uninterrupted[2])


def test_a_reallocation_that_was_killed_leaves_the_old_table_in_force(
    uninterrupted: Runs, tiny: Options, tmp_path: Path
) -> None:
    """The words have moved, their table is written, but no checkpoint has it yet."""
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir)
    run("train", [*arguments, "--train.max_steps", "29"], tmp_path / "a", 2).check(STOPPED)
    run("train", [*arguments, "--train.max_steps", "30"], tmp_path / "b", 2).check(STOPPED)
    assert len(tables_of(run_dir)) == 2
    shutil.rmtree(checkpoint_of(run_dir, REALLOCATION))
    run("train", [*arguments, "--train.max_steps", "0"], tmp_path / "c", 2).check()
    assert_same_run(run_dir, uninterrupted[2])


def test_no_step_is_logged_twice(uninterrupted: Runs, tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted[1], run_dir)
    for step in (LAST, EPOCH):
        shutil.rmtree(checkpoint_of(run_dir, step))
    run("train", tiny(run_dir), tmp_path / "logs", 1).check()
    for event in ("train", "valid", "reallocation", "end"):
        steps = [record["step"] for record in read_records(run_dir, event)]
        assert len(set(steps)) == len(steps), event
    assert_same_run(run_dir, uninterrupted[1])


def test_a_run_that_is_done_stays_as_it_is(
    uninterrupted: Runs, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted[1], run_dir)
    run("train", ["--run-dir", str(run_dir)], tmp_path / "logs", 2).check()
    assert_same_run(run_dir, uninterrupted[1])
    assert tables_of(run_dir) == tables_of(uninterrupted[1])
    (before,), (after,) = (read_records(path, "end") for path in (uninterrupted[1], run_dir))
    for name in ("valid_perplexity", "test_perplexity"):
        assert after[name] == pytest.approx(before[name], rel=1e-6)


def test_what_checkpoints_say(uninterrupted: Runs) -> None:
    for size, run_dir in uninterrupted.items():
        assert checkpoint_steps(run_dir) == [REALLOCATION, 45, EPOCH, LAST]
        metas = {step: read_meta(checkpoint_of(run_dir, step)) for step in (45, EPOCH, LAST)}
        assert metas[45].valid_perplexity == 0
        valid = {record["step"]: record for record in read_records(run_dir, "valid")}
        for step in (EPOCH, LAST):
            assert metas[step].valid_perplexity == valid[step]["perplexity"]
        places = {step: (meta.loader["epoch"], meta.loader["step"]) for step, meta in metas.items()}
        assert places == {45: (0, 45), EPOCH: (1, 0), LAST: (1, 30)}
        text = json.dumps({**vars(metas[LAST]), "files": 0})
        assert "rank" not in text
        assert "world" not in text
        assert size == read_records(run_dir, "start")[0]["world_size"]


def test_what_the_metrics_say(uninterrupted: Runs) -> None:
    for run_dir in uninterrupted.values():
        records = read_records(run_dir)
        assert [record["event"] for record in records[:2]] == ["start", "valid"]
        assert records[-1]["event"] == "end"
        steps = [record["step"] for record in records]
        assert steps == sorted(steps)
        for record in records:
            assert {"event", "step", "table_version", "epoch"} <= record.keys()
            assert record["epoch"] == record["step"] / EPOCH
            if "perplexity" in record:
                assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
                halves: Any = record["row_loss"] + record["column_loss"]
                assert record["loss"] == pytest.approx(halves)
        per_epoch = sum(r["tokens"] for r in read_records(run_dir, "train") if r["step"] <= EPOCH)
        assert per_epoch == records[0]["tokens_per_epoch"]
