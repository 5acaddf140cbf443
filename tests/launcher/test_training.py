"""The loop: every kind of model, schedules, precision, and losses that are not numbers."""

import hashlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_runs import (
    checkpoint_of,
    checkpoint_steps,
    find_all_moves_bad,
    lose_a_number_at_step,
    losses_of,
    measured,
    read_records,
    run,
)

from launcher.checkpoints import read_meta, verify_checkpoint
from launcher.verify import verify
from lightrnn import LightRNNError, WordTable

Options = Callable[..., list[str]]


@pytest.fixture(scope="module")
def lstm(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the losses of 40 steps of an LSTM."""
    folder = tmp_path_factory.mktemp("lstm")
    arguments = tiny(folder / "run", train__max_steps=40)
    run("train", arguments, folder / "logs", 1).check(75)
    return losses_of(folder / "run")


@pytest.mark.parametrize(
    "settings",
    [
        {"model__cell": "gru", "train__optimizer": "adamw", "train__weight_decay": 0.01},
        {"model__cell": "rnn", "train__clip_norm": 0.25},
        {"model__num_layers": 2, "train__schedule": "cosine"},
        {"model__tied": "true", "model__embedding_size": 16},
        {"train__optimizer": "sgd", "train__learning_rate": 0.5, "model__dropout": 0},
        {"table__num_rows": 10, "table__num_columns": 40, "allocation__solver": "alternating"},
    ],
    ids=["gru", "rnn", "2-layers", "tied", "sgd", "oblong-table"],
)
def test_every_kind_of_model_trains_and_resumes(
    settings: dict[str, object], tiny: Options, tmp_path: Path
) -> None:
    """Forty steps in one go, and the same in two with a word move right before the break."""
    shared = {**settings, "train__epochs": 40 / 60, "allocation__epochs": 0.25}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("train", tiny(whole, **shared), tmp_path / "logs", 1).check()
    for stop in (15, 0):
        arguments = tiny(parts, **shared, train__max_steps=stop)
        run("train", arguments, tmp_path / f"logs-{stop}", 1).check(75 if stop else 0)
    losses = losses_of(whole)
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < sum(losses[:5])
    events = ("train", "valid", "reallocation", "end")
    assert measured(parts, *events) == measured(whole, *events)


def test_another_seed_is_another_run(tiny: Options, lstm: list[float], tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", train__seed=2, train__max_steps=3)
    run("train", arguments, tmp_path / "logs", 1).check(75)
    assert losses_of(tmp_path / "run")[0] != lstm[0]


def test_bfloat16_trains_nearly_as_float32(
    tiny: Options, lstm: list[float], tmp_path: Path
) -> None:
    """Bands: 8 bits of mantissa, a relative error of 2**-9 a rounding, and what grows from it."""
    arguments = tiny(tmp_path / "run", train__precision="bfloat16", train__max_steps=40)
    run("train", arguments, tmp_path / "logs", 1).check(75)
    losses = losses_of(tmp_path / "run")
    assert all(map(math.isfinite, losses))
    assert losses[0] == pytest.approx(lstm[0], rel=2e-3)
    # After the words have moved the tables may differ, so the losses only look alike.
    assert losses[:30] == pytest.approx(lstm[:30], rel=1e-2)
    assert losses[30:] == pytest.approx(lstm[30:], rel=5e-2)
    assert losses[:30] != lstm[:30]


def test_a_plateau_moves_words(tiny: Options, tmp_path: Path) -> None:
    """No validation falls by 90 %, so each second one calls for a move, until two are done."""
    run_dir = tmp_path / "run"
    plateau = {
        "allocation__when": "plateau",
        "allocation__min_improvement": 0.9,
        "allocation__max_rounds": 2,
        "train__eval_every_epochs": 0.1,
        "train__epochs": 0.8,
    }
    run("train", tiny(run_dir, **plateau, train__max_steps=6), tmp_path / "a", 2).check(75)
    assert read_meta(checkpoint_of(run_dir, 6)).rounds["done"] == 1
    run("train", tiny(run_dir, **plateau, train__max_steps=15), tmp_path / "b", 2).check(75)
    run("train", tiny(run_dir, **plateau, train__max_steps=0), tmp_path / "c", 1).check()
    valid = [record["step"] for record in read_records(run_dir, "valid")]
    assert valid == list(range(0, 49, 6))
    moved = [(r["step"], r["table_version"]) for r in read_records(run_dir, "reallocation")]
    assert moved == [(6, 1), (18, 2)]


def test_tables_are_taken_where_they_help_and_proven_on_file(tiny: Options, tmp_path: Path) -> None:
    """Two exchanges, statistics in files of a sample of the text: one table, and its proof."""
    trial = {"allocation__max_tries": 2, "allocation__moves": "columns", "train__epochs": 0.6}
    for name, size, exchange, tolerance in (("a", 2, "sharded", 9), ("b", 1, "dense", 9)):
        options = {**trial, "allocation__exchange": exchange, "allocation__tolerance": tolerance}
        options |= {"allocation__memory_gib": 1e-6, "allocation__tokens": 3000}
        run("train", tiny(tmp_path / name, **options), tmp_path / f"logs-{name}", size).check()
        (moved,) = read_records(tmp_path / name, "reallocation")
        assert moved["held_out_after"] == pytest.approx(
            math.log(moved["valid_perplexity_after"]), rel=1e-6
        )
        assert moved["held_out_after"] == min(one["held_out_loss"] for one in moved["tries"])
        assert 3000 <= moved["tokens"] < 3200
        assert moved["standard_error"] > 0
        lines: list[str] = []
        verify(tmp_path / name, lines.append)
        assert any(line.startswith("certificate of table-0001.arrow: loss ") for line in lines)
    tables = [WordTable.load(tmp_path / name / "tables" / "table-0001.arrow") for name in "ab"]
    assert tables[0] == tables[1]
    (tmp_path / "a" / "tables" / "table-0001.arrow").unlink()
    shutil.copy(tmp_path / "a/tables/table-0000.arrow", tmp_path / "a/tables/table-0001.arrow")
    with pytest.raises(LightRNNError, match=r"part-00000-of-00002\.safetensors is of another"):
        verify(tmp_path / "a", lambda _: None)


def test_a_first_table_from_the_text_is_made_once_by_any_number(
    tiny: Options, tmp_path: Path
) -> None:
    tables = []
    for size in (1, 2):
        run_dir = tmp_path / f"run-{size}"
        arguments = tiny(run_dir, table__init="svd", train__max_steps=3)
        told = run("train", arguments, tmp_path / f"logs-{size}", size).check(75).errors[0]
        assert "first table: counting neighbours in 6000 tokens" in told
        tables.append(WordTable.load(run_dir / "tables" / "table-0000.arrow"))
    assert tables[0] == tables[1]
    assert tables[0] != WordTable.random(tables[0].num_words, 16, 16, 1)
    arguments = tiny(run_dir, table__init="svd", train__max_steps=5)
    assert "first table" not in run("train", arguments, tmp_path / "on", 2).check(75).errors[0]
    assert WordTable.load(run_dir / "tables" / "table-0000.arrow") == tables[0]


def test_words_stay_where_no_table_is_better(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir, allocation__max_tries=3, train__epochs=0.6)
    hooks = dict.fromkeys(range(2), find_all_moves_bad)
    told = run("train", arguments, tmp_path / "logs", 2, hooks).check().errors[0]
    assert "epoch 0.50 | the words stay: held-out loss" in told
    assert not read_records(run_dir, "reallocation")
    (kept,) = read_records(run_dir, "kept")
    assert [one["stay_bonus"] for one in kept["tries"]] == [0.0, 0.1, 0.2]
    assert not list(run_dir.glob("certificates/*"))
    assert [path.name for path in run_dir.glob("tables/*")] == ["table-0000.arrow"]
    assert read_records(run_dir)[-1]["table_version"] == 0


def test_words_stay_where_they_never_move(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir, allocation__when="never", train__epochs=0.6)
    run("train", arguments, tmp_path / "logs", 1).check()
    assert not read_records(run_dir, "reallocation")
    assert {record["table_version"] for record in read_records(run_dir)} == {0}


def test_validation_at_periods_that_are_no_whole_steps(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = tiny(run_dir, train__eval_every_epochs=0.11, train__epochs=0.5)
    run("train", arguments, tmp_path / "logs", 1).check()
    # Multiples of 6.6 steps, each at the first step after it, and the end.
    steps = [record["step"] for record in read_records(run_dir, "valid")]
    assert steps == [0, 7, 14, 20, 27, 30]


def contents_of(checkpoint: Path) -> dict[str, str]:
    return {
        str(path.relative_to(checkpoint)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in checkpoint.rglob("*")
        if path.is_file()
    }


def test_a_loss_that_is_no_number_on_one_rank_ends_all(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run("train", tiny(run_dir, train__max_steps=8), tmp_path / "a", 2).check(75)
    before = contents_of(checkpoint_of(run_dir, 8))
    arguments = tiny(run_dir, train__max_steps=0)
    ended = run("train", arguments, tmp_path / "b", 2, {1: lose_a_number_at_step(12)}).check(1)
    for rank, text in enumerate(ended.errors):
        who = f"[rank {rank}] " if rank else ""
        last = text.splitlines()[-1]
        assert last.startswith(f"{who}training failed: the loss or its gradient is not finite at ")
        assert "step 12" in last
        assert "train.learning_rate" in last
        assert "Traceback" not in text
    assert len(ended.errors[1].splitlines()) == 1
    assert checkpoint_steps(run_dir) == [8]
    verify_checkpoint(checkpoint_of(run_dir, 8))
    assert contents_of(checkpoint_of(run_dir, 8)) == before
    # The checkpoint is good to go on from.
    run("train", tiny(run_dir, train__max_steps=14), tmp_path / "c", 2).check(75)
    assert [record["step"] for record in read_records(run_dir, "train")] == list(range(1, 15))


def test_an_absurd_learning_rate_ends_training(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    absurd = {"train__learning_rate": 1e37, "train__clip_norm": 0, "train__optimizer": "sgd"}
    arguments = tiny(run_dir, **absurd, train__warmup_steps=0)
    ended = run("train", arguments, tmp_path / "logs", 2).check(1)
    for text in ended.errors:
        assert "training failed: the loss or its gradient is not finite" in text
        assert "Traceback" not in text
    assert checkpoint_steps(run_dir) == []
