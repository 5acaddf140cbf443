"""Shuffled documents and sentences by themselves: as elastic and resumable as plain lanes."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher_runs import (
    STOPPED,
    assert_same_tensors,
    checkpoint_of,
    fail_to_read_at_step,
    measured,
    options,
    read_records,
    run,
)

from data_shards import PADDING, Corpus, RowOrder, SentenceBatches
from launcher.checkpoints import load_model, read_meta
from lightrnn import LightRNN, ModelShape, WordTable
from lightrnn.dropout import dropout_keys

Options = Callable[..., list[str]]
Runs = Mapping[int, Path]

KINDS: dict[str, dict[str, object]] = {
    "documents": {"data__shuffle": "documents"},
    "sentences": {"data__context": "sentence"},
    "shuffled-sentences": {"data__shuffle": "documents", "data__context": "sentence"},
}
EVENTS = ("train", "valid", "reallocation", "end")


def steps_per_epoch(corpus: Path, kind: str) -> int:
    """Return the steps of an epoch with 10 lanes of 10 words, or with 10 rows a step."""
    split = Corpus.open(corpus).manifest.splits["train"]
    if "data__context" in KINDS[kind]:
        return math.ceil(split.rows / 10)
    return math.ceil(math.ceil(split.tokens / 10) / 10)


def arguments_of(tiny: Options, run_dir: Path, kind: str, **settings: object) -> list[str]:
    """Return the options of a run of an epoch and ten percent, with a reallocation half way."""
    shared = {"train__epochs": 1.1, "checkpoint__every_steps": 20}
    return tiny(run_dir, **{**shared, **KINDS[kind], **settings})


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Return the name of an order."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def uninterrupted(kind: str, tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return the same run at 1 and 2 processes."""
    folder = tmp_path_factory.mktemp(kind)
    runs = {size: folder / f"run-{size}" for size in (1, 2)}
    for size, run_dir in runs.items():
        run("train", arguments_of(tiny, run_dir, kind), folder / f"logs-{size}", size).check()
    return runs


def test_two_processes_train_as_one(uninterrupted: Runs, kind: str, corpus: Path) -> None:
    num_steps = steps_per_epoch(corpus, kind)
    start = read_records(uninterrupted[1], "start")[0]
    assert start["steps_per_epoch"] == num_steps
    assert start["tokens_per_epoch"] == 6000
    for event, names in {
        "train": ("loss", "row_loss", "column_loss", "grad_norm"),
        "valid": ("loss",),
        "reallocation": ("loss_before", "loss_predicted", "loss_after"),
        "end": ("valid_perplexity", "test_perplexity"),
        "start": ("unigram_perplexity",),
    }.items():
        ones, others = (read_records(uninterrupted[size], event) for size in (1, 2))
        assert len(ones) == len(others) > 0
        for one, other in zip(ones, others, strict=True):
            for key in ("step", "table_version", "tokens"):
                assert one.get(key) == other.get(key)
            for name in names:
                assert one[name] == pytest.approx(other[name], rel=1e-4), (event, one["step"])
    train = read_records(uninterrupted[1], "train")
    assert len(train) == round(1.1 * num_steps)
    assert sum(record["tokens"] for record in train[:num_steps]) == 6000
    losses = [record["loss"] for record in train]
    assert sum(losses[-10:]) < sum(losses[:10]) - 1
    assert all(0 <= record["data_wait_share"] <= 1 for record in train)


def test_a_run_by_parts_is_the_uninterrupted_one(
    uninterrupted: Runs, kind: str, corpus: Path, tiny: Options, tmp_path: Path
) -> None:
    """Stopped in the first epoch and in the second, whose order is another."""
    run_dir, num_steps = tmp_path / "run", steps_per_epoch(corpus, kind)
    for stop in (17, num_steps + 3, 0):
        arguments = arguments_of(tiny, run_dir, kind, train__max_steps=stop)
        run("train", arguments, tmp_path / f"logs-{stop}", 2).check(STOPPED if stop else 0)
    assert measured(run_dir, *EVENTS) == measured(uninterrupted[2], *EVENTS)
    last = round(1.1 * num_steps)
    assert_same_tensors(checkpoint_of(run_dir, last), checkpoint_of(uninterrupted[2], last))
    loader = read_meta(checkpoint_of(run_dir, num_steps + 3)).loader
    assert (loader["epoch"], loader["step"], loader["num_lanes"]) == (1, 3, 10)
    assert len(loader) == 6


def test_orders_differ_from_the_text_s_own(kind: str, uninterrupted: Runs, corpus: Path) -> None:
    """Each epoch has its numbers of tokens by step, but for lanes, where they are all alike."""
    train = read_records(uninterrupted[1], "train")
    num_steps = steps_per_epoch(corpus, kind)
    tokens = [record["tokens"] for record in train]
    alike = tokens[: len(train) - num_steps] == tokens[num_steps:]
    assert alike == (kind == "documents")


def evaluate(run_dir: Path, logs: Path, split: str, world_size: int) -> Any:
    command = ["evaluate", str(run_dir), *options(split=split)]
    return json.loads(run("lightrnn", command, logs, world_size).check().output.splitlines()[-1])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_sentences_are_read_by_themselves(tiny: Options, corpus: Path, tmp_path: Path) -> None:
    """The losses of validation and of a step, computed here from rows read alone."""
    run_dir = tmp_path / "run"
    arguments = arguments_of(tiny, run_dir, "shuffled-sentences", train__max_steps=20)
    run("train", [*arguments, "--allocation.when", "never"], tmp_path / "a", 2).check(STOPPED)
    model = LightRNN(ModelShape(16, 16, 12, 16), num_words=250, dropout=0.2)
    checkpoint = checkpoint_of(run_dir, 20)
    load_model(checkpoint, read_meta(checkpoint), model)
    opened = Corpus.open(corpus)

    # Evaluation: every row alone, each of its words and its <eos> once.
    model.eval()
    nll, num_tokens = 0.0, 0
    tokens = opened.split("valid")
    for row in rows_of(opened, "valid"):
        words = torch.tensor([[opened.vocabulary.eos_id, *row]], dtype=torch.int32)
        with torch.no_grad():
            losses = model(words[:, :-1], words[:, 1:], model.initial_state(1))
        nll += float(losses.row_nll + losses.column_nll)
        num_tokens += len(row)
    assert num_tokens == len(tokens)
    for size in (1, 2):
        found = evaluate(run_dir, tmp_path / f"evaluate-{size}", "valid", size)
        assert found["tokens"] == num_tokens
        assert found["nll"] == pytest.approx(nll / num_tokens, rel=1e-5)

    # The next step: the state begins anew, dropout is that of the lanes.
    model.train()
    rows = RowOrder(opened.split("train"), 1, shuffled=True)
    batch = SentenceBatches(rows, 10, range(10)).batch(20)
    inputs, targets = torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets)
    keys = dropout_keys(1, 20, range(10), torch.device("cpu"))
    with torch.no_grad():
        losses = model(inputs, targets, model.initial_state(10), keys)
    more = arguments_of(tiny, run_dir, "shuffled-sentences", train__max_steps=21)
    run("train", [*more, "--allocation.when", "never"], tmp_path / "b", 2).check(STOPPED)
    record = read_records(run_dir, "train")[-1]
    assert record["step"] == 21
    assert record["tokens"] == int((targets != PADDING).sum())
    assert record["row_loss"] == pytest.approx(float(losses.row_nll) / record["tokens"], rel=1e-5)


def rows_of(corpus: Corpus, split: str) -> list[list[int]]:
    tokens = corpus.split(split)
    words, eos_id = tokens.read(0, len(tokens)).tolist(), corpus.vocabulary.eos_id
    ends = [position + 1 for position, word in enumerate(words) if word == eos_id]
    return [words[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def test_statistics_are_of_sentences_too(tiny: Options, tmp_path: Path) -> None:
    """What a reallocation counts is what evaluation measures on the training text.

    A high learning rate lets states matter after a few steps.
    """
    run_dir, run_on = tmp_path / "run", tmp_path / "on"
    shared = {"train__max_steps": 15, "train__learning_rate": 0.03}
    for path, epochs in ((run_dir, 5.0), (run_on, 15 / 60)):
        arguments = arguments_of(tiny, path, "sentences", **shared, allocation__epochs=epochs)
        run("train", arguments, tmp_path / f"logs-{path.name}", 1).check(STOPPED)
    steps = read_records(run_on, "start")[0]["steps_per_epoch"]
    (moved,) = read_records(run_on, "reallocation")
    assert moved["step"] == round(steps * 15 / 60) == 15
    assert moved["tokens"] == 6000
    result = evaluate(run_dir, tmp_path / "evaluate", "train", 1)
    assert moved["loss_before"] == pytest.approx(result["nll"], rel=1e-6)


def test_a_first_table_by_context_of_sentences(tiny: Options, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = arguments_of(
        tiny, run_dir, "shuffled-sentences", table__init="context", train__max_steps=1
    )
    told = run("train", arguments, tmp_path / "logs", 2).check(STOPPED).errors[0]
    losses = [
        float(line.split("loss ")[1].split()[0])
        for line in told.splitlines()
        if "context model, round" in line
    ]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    table = WordTable.load(run_dir / "tables" / "table-0000.arrow")
    assert table != WordTable.random(250, 16, 16, 1)


def test_an_error_while_reading_ahead_is_told_in_one_line(tiny: Options, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run")
    hooks = {0: fail_to_read_at_step(7)}
    ended = run("train", arguments, tmp_path / "logs", 1, hooks).check(2)
    assert ended.errors[0].splitlines()[-1] == "error: the shard of step 7 is gone"
    assert "Traceback" not in ended.errors[0]
    # Steps before it were taken.
    assert read_records(tmp_path / "run", "train")[-1]["step"] == 7
