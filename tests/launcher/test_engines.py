"""DeepSpeed beside DDP: the same losses, the same checkpoints, one line for what contradicts."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from launcher_runs import (
    STOPPED,
    checkpoint_of,
    checkpoint_steps,
    lose_a_number_at_step,
    losses_of,
    measured,
    read_records,
    read_tensors,
    run,
)

from launcher.checkpoints import read_meta
from launcher.engines.deepspeed import check_deepspeed, deepspeed_settings
from launcher.settings import DeepSpeedSettings, Settings, SettingsError, TrainSettings

Options = Callable[..., list[str]]

pytestmark = [
    pytest.mark.deepspeed,
    pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="the extra deepspeed is missing"
    ),
]

LAST = 45
"""Steps of a run here, with words moved after 15."""


def short(tiny: Options, run_dir: Path, **settings: object) -> list[str]:
    length = {"train__epochs": LAST / 60, "allocation__epochs": 0.25}
    return tiny(run_dir, **{**length, **settings})


def with_deepspeed(zero_stage: int) -> dict[str, object]:
    return {"train__engine": "deepspeed", "deepspeed__zero_stage": zero_stage}


@pytest.fixture(scope="module")
def with_ddp(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of two processes that all others are compared with."""
    folder = tmp_path_factory.mktemp("ddp")
    run("train", short(tiny, folder / "run"), folder / "logs", 2).check()
    return folder / "run"


@pytest.mark.parametrize(("size", "zero_stage"), [(None, 2), (1, 0), (2, 0), (2, 1), (2, 2)])
def test_deepspeed_gives_the_losses_of_ddp(
    with_ddp: Path, tiny: Options, tmp_path: Path, size: int | None, zero_stage: int
) -> None:
    arguments = short(tiny, tmp_path / "run", **with_deepspeed(zero_stage))
    ended = run("train", arguments, tmp_path / "logs", size).check()
    assert "DeepSpeed" not in ended.output + ended.errors[0]
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(with_ddp), rel=1e-5)


def test_a_run_may_change_engine_stage_and_number_of_processes(
    with_ddp: Path, tiny: Options, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    parts = [
        (10, 2, {"train__engine": "ddp"}),
        (20, 1, with_deepspeed(2)),
        (30, 4, with_deepspeed(1)),
        (35, 2, with_deepspeed(0)),
        (0, 2, {"train__engine": "ddp"}),
    ]
    for stop, size, engine in parts:
        arguments = short(tiny, run_dir, **engine, train__max_steps=stop)
        ended = run("train", arguments, tmp_path / f"logs-{stop}", size)
        ended.check(STOPPED if stop else 0)
    assert losses_of(run_dir) == pytest.approx(losses_of(with_ddp), rel=1e-4)
    ours, others = (read_tensors(checkpoint_of(path, LAST)) for path in (run_dir, with_ddp))
    assert ours.keys() == others.keys()
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in others.items()
    }


def test_resuming_with_deepspeed_changes_no_bit(tiny: Options, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    engine = with_deepspeed(2)
    run("train", short(tiny, whole, **engine), tmp_path / "logs", 2).check()
    for stop in (23, 0):
        arguments = short(tiny, parts, **engine, train__max_steps=stop)
        run("train", arguments, tmp_path / "logs", 2).check(STOPPED if stop else 0)
    events = ("train", "valid", "reallocation", "end")
    assert measured(parts, *events) == measured(whole, *events)


def settings_with(path: Path, content: Mapping[str, object]) -> Settings:
    path.write_text(json.dumps(content))
    return Settings(
        train=TrainSettings(engine="deepspeed"),
        deepspeed=DeepSpeedSettings(zero_stage=2, config=str(path)),
    )


def test_a_file_may_add_to_the_settings(tmp_path: Path) -> None:
    added = {
        "wall_clock_breakdown": True,
        "gradient_clipping": 1.0,
        "zero_optimization": {"reduce_bucket_size": 77, "overlap_comm": True},
    }
    settings = settings_with(tmp_path / "ds.json", added)
    made = deepspeed_settings(settings, bfloat16=True, num_parameters=5)
    assert made["wall_clock_breakdown"] is True
    assert made["zero_optimization"] == {
        "stage": 2,
        "reduce_bucket_size": 77,
        "allgather_bucket_size": 5,
        "overlap_comm": True,
    }
    assert made["torch_autocast"]["enabled"] is True


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"gradient_clipping": 0.5}, ("gradient_clipping=0.5", "expected 1.0", "train.clip_norm")),
        ({"zero_optimization": {"stage": 1}}, ("zero_optimization.stage=1", "zero_stage")),
        ({"optimizer": {"type": "Adam"}}, ("has optimizer, which train.optimizer decides",)),
        ({"fp16": {"enabled": True}}, ("fp16", "train.precision")),
        ({"train_batch_size": 8}, ("train_batch_size", "data.num_lanes")),
        ([1], ("holds a list, expected a JSON object",)),
    ],
)
def test_what_contradicts_the_settings_is_refused(
    tmp_path: Path, content: Mapping[str, object], parts: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as caught:
        check_deepspeed(settings_with(tmp_path / "ds.json", content))
    for part in (*parts, str(tmp_path / "ds.json")):
        assert part in str(caught.value)


def test_wrong_settings_are_one_line_on_all_ranks(tiny: Options, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    wrong = {"train__engine": "deepspeed", "deepspeed__config": path}
    arguments = short(tiny, tmp_path / "run", **wrong)
    run("train", arguments, tmp_path / "a", 2).check_one_line("ds.json cannot be read")
    # Only DeepSpeed itself knows that there is no such setting.
    path.write_text(json.dumps({"zero_optimization": {"no_such_thing": 1}}))
    run("train", arguments, tmp_path / "b", 2).check_one_line(
        "DeepSpeed does not take its settings", "no_such_thing", "change deepspeed.config"
    )


def hide_deepspeed() -> None:
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name, *rest: None if name == "deepspeed" else found(name)


def test_a_missing_deepspeed_is_one_line(tiny: Options, tmp_path: Path) -> None:
    arguments = short(tiny, tmp_path / "run", train__engine="deepspeed")
    hooks = dict.fromkeys(range(2), hide_deepspeed)
    run("train", arguments, tmp_path / "logs", 2, hooks).check_one_line(
        "needs the package deepspeed", "install lightrnn[deepspeed]"
    )


@pytest.mark.parametrize("engine", [{"train__engine": "ddp"}, with_deepspeed(0), with_deepspeed(2)])
def test_a_step_without_a_finite_loss_is_left_out_on_all_ranks(
    tiny: Options, tmp_path: Path, engine: dict[str, object]
) -> None:
    """Step 12 leaves everything but the place in the text as it was; a second one is too many."""
    run_dir = tmp_path / "run"
    shared = {**engine, "train__max_skipped_steps": 1, "checkpoint__every_steps": 1}
    arguments = short(tiny, run_dir, **shared, train__max_steps=14)
    ended = run("train", arguments, tmp_path / "a", 2, {1: lose_a_number_at_step(12)})
    ended.check(STOPPED)
    assert "not finite at step 12: left out" in ended.errors[0]
    before, after = (read_tensors(checkpoint_of(run_dir, step)) for step in (12, 13))
    assert not [name for name in before if not torch.equal(before[name], after[name])]
    assert read_meta(checkpoint_of(run_dir, 13)).skipped == {"total": 1, "in_a_row": 1}
    records = {record["step"]: record for record in read_records(run_dir, "train")}
    assert list(records) == [*range(1, 13), 14]
    assert records[14]["skipped_steps"] == 1

    arguments = short(tiny, run_dir, **shared, train__max_steps=0)
    hooks = {0: lose_a_number_at_step(14, 15)}
    ended = run("train", arguments, tmp_path / "b", 2, hooks).check(1)
    assert "training failed: the loss or its gradient is not finite at step 15" in ended.errors[1]
    assert read_meta(checkpoint_of(run_dir, 15)).skipped == {"total": 2, "in_a_row": 1}
    assert checkpoint_steps(run_dir)[-1] == 15


@pytest.mark.parametrize(
    ("size", "engine"),
    [(2, {"train__engine": "ddp"}), (4, with_deepspeed(1)), (1, with_deepspeed(2))],
)
def test_a_step_in_parts_is_the_same_step(
    with_ddp: Path, tiny: Options, tmp_path: Path, size: int, engine: dict[str, object]
) -> None:
    """Three parts of five lanes; two at most where a rank has two lanes; ten lanes by three."""
    parts = {**engine, "train__accumulate_steps": 3, "train__loss_chunk_tokens": 17}
    run("train", short(tiny, tmp_path / "run", **parts), tmp_path / "logs", size).check()
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(with_ddp), rel=1e-4)
