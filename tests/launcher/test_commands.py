"""The commands that use a finished run, and what a run's folder holds."""

import json
import math
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launcher_runs import (
    checkpoint_of,
    checkpoint_steps,
    options,
    read_records,
    run,
)

from data_shards import EOS, UNK, Corpus, Recipe, TextOptions, Vocabulary, prepare_corpus
from launcher.inference import load_run
from launcher.processes import joined_processes
from launcher.run_dir import RunDirectory
from launcher.settings import load_settings, read_settings
from lightrnn import WordTable

Options = Callable[..., list[str]]


@pytest.fixture(scope="module")
def done(tiny: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run over two processes that is done, with its report."""
    folder = tmp_path_factory.mktemp("done")
    arguments = tiny(folder / "run", data__eval_lanes=2, train__eval_every_epochs=0.5)
    run("train", arguments, folder / "logs", 2, with_report=True).check()
    return folder / "run"


def evaluate(run_dir: Path, logs: Path, world_size: int | None = None, **more: str) -> Any:
    """Return what the last line of the output says; the other ranks say nothing."""
    command = ["evaluate", str(run_dir), *options(**more)]
    ended = run("lightrnn", command, logs, world_size).check()
    assert not any(ended.outputs[1:])
    return json.loads(ended.output.splitlines()[-1])


def test_a_run_s_folder_holds_everything(done: Path, corpus: Path, tiny: Options) -> None:
    names = {path.name for path in done.iterdir()}
    assert names >= {
        *("config.toml", "metrics.jsonl", "vocabulary.arrow", "checkpoints", "tables"),
        *("tensorboard", "report.html", "logs"),
    }
    assert not [name for name in names if name.startswith(".")]
    assert [path.name for path in sorted((done / "tables").iterdir())] == [
        "table-0000.arrow",
        "table-0001.arrow",
    ]
    assert [path.name for path in sorted((done / "logs").iterdir())] == [
        "rank-00000.log",
        "rank-00001.log",
    ]
    assert "[rank 0] " in (done / "logs" / "rank-00000.log").read_text()
    assert list((done / "tensorboard").glob("events.out.tfevents.*"))
    assert "<html" in (done / "report.html").read_text().lower()
    words = Vocabulary.load(done / "vocabulary.arrow").words
    assert list(words) == list(Corpus.open(corpus).vocabulary.words)
    for step in checkpoint_steps(done):
        checkpoint = checkpoint_of(done, step)
        assert {path.name for path in checkpoint.iterdir()} == {
            *(".metadata", "__0_0.distcp", "__1_0.distcp", "meta.json", "rng"),
        }
        assert list((checkpoint / "rng").iterdir())
    assert {path.name for path in (done / "checkpoints").iterdir()} == {
        "latest",
        *(f"step-{step:08d}" for step in checkpoint_steps(done)),
    }


def test_the_settings_kept_are_those_of_the_run(done: Path, tiny: Options) -> None:
    content = tomllib.loads((done / "config.toml").read_text())
    assert content["data"]["eval_lanes"] == 2
    assert content["train"]["seed"] == 1  # defaults are written, too
    arguments = tiny(done, data__eval_lanes=2, train__eval_every_epochs=0.5)
    assert load_settings(["--run-dir", str(done)]) == load_settings(arguments)
    assert read_settings(done / "config.toml").run_dir == ""


def test_evaluate_agrees_with_the_last_validation(done: Path, corpus: Path, tmp_path: Path) -> None:
    result = evaluate(done, tmp_path / "logs", split="valid")
    assert result.keys() >= {"split", "perplexity", "nll", "tokens"}
    assert result["split"] == "valid"
    tokens = len(Corpus.open(corpus).split("valid"))
    lines = (read_records(done, "valid")[-1], read_records(done, "end")[-1])
    assert result["tokens"] == tokens == lines[0]["tokens"] == 600
    assert result["perplexity"] == pytest.approx(lines[0]["perplexity"], rel=1e-6)
    assert result["perplexity"] == pytest.approx(lines[1]["valid_perplexity"], rel=1e-6)
    assert result["perplexity"] == pytest.approx(math.exp(result["nll"]), rel=1e-12)
    assert result["nll"] == pytest.approx(result["row_nll"] + result["column_nll"])


def test_evaluate_reads_the_test_split_where_none_is_named(done: Path, tmp_path: Path) -> None:
    result = evaluate(done, tmp_path / "logs")
    (end,) = read_records(done, "end")
    assert (result["split"], result["tokens"]) == ("test", 607)
    assert result["perplexity"] == pytest.approx(end["test_perplexity"], rel=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_evaluate_over_any_number_of_processes(done: Path, tmp_path: Path, size: int) -> None:
    """The run's two evaluation lanes leave the third process without any."""
    alone = evaluate(done, tmp_path / "alone", split="test")
    several = evaluate(done, tmp_path / "several", size, split="test")
    assert several["tokens"] == alone["tokens"]
    assert several["nll"] == pytest.approx(alone["nll"], rel=1e-6)


def test_evaluate_reads_the_checkpoint_asked_for(done: Path, tmp_path: Path) -> None:
    valid = {record["step"]: record["perplexity"] for record in read_records(done, "valid")}
    for step in (60, 90):
        name = f"step-{step:08d}"
        result = evaluate(done, tmp_path / name, split="valid", checkpoint=name)
        assert result["perplexity"] == pytest.approx(valid[step], rel=1e-6)
    assert valid[60] != pytest.approx(valid[90], rel=1e-6)
    best = evaluate(done, tmp_path / "best", split="valid", checkpoint="best")
    assert best["perplexity"] == pytest.approx(min(valid[60], valid[90]), rel=1e-6)


def test_a_moved_run_and_a_moved_corpus_are_found(done: Path, corpus: Path, tmp_path: Path) -> None:
    moved_corpus = shutil.copytree(corpus, tmp_path / "moved-corpus")
    moved_run = shutil.copytree(done, tmp_path / "moved-run")
    given = evaluate(moved_run, tmp_path / "logs", corpus=str(moved_corpus))
    (end,) = read_records(done, "end")
    assert given["perplexity"] == pytest.approx(end["test_perplexity"], rel=1e-6)


def generate(done: Path, logs: Path, **more: object) -> str:
    return run("lightrnn", ["generate", str(done), *options(**more)], logs).check().output


def test_generated_text_is_the_same_for_a_seed(done: Path, tmp_path: Path) -> None:
    drawn = {
        name: generate(done, tmp_path / name, seed=seed, **{"num-words": 60})
        for name, seed in (("first", 7), ("again", 7), ("other", 8))
    }
    assert drawn["first"] == drawn["again"]
    assert drawn["first"] != drawn["other"]


def test_generated_words_are_words(done: Path, corpus: Path, tmp_path: Path) -> None:
    vocabulary = Corpus.open(corpus).vocabulary
    assert vocabulary.counts[vocabulary.unk_id] > 0  # so it was learnt, and could be drawn
    more = {"num-words": 400, "temperature": 1.5}
    text = generate(done, tmp_path / "logs", prompt="word1 zebra", **more)
    words = text.split()
    assert words[:2] == ["word1", "zebra"]  # as it was given
    assert set(words[2:]) <= set(vocabulary.words) - {EOS, UNK}
    ends = text.count("\n")
    assert 300 < len(words) + ends <= 403
    assert ends > 5
    assert len(set(words)) > 50


def test_prompts_become_words_as_the_text_did(
    texts: dict[str, Path], tiny: Options, tmp_path: Path
) -> None:
    text = TextOptions(tokenizer="word", lowercase=True, normalize="nfc")
    prepare_corpus([texts["train"]], [], [], tmp_path / "corpus", Recipe(text, vocab_size=250))
    run_dir = tmp_path / "run"
    stopped = tiny(run_dir, data__corpus=tmp_path / "corpus", train__max_steps=2)
    run("lightrnn", ["train", *stopped], tmp_path / "logs").check(75)
    with joined_processes() as processes:
        assert load_run(RunDirectory(run_dir), "latest", processes).text == text


def test_generate_draws_as_many_words_as_asked_for(done: Path, tmp_path: Path) -> None:
    assert generate(done, tmp_path / "logs", prompt="word3", **{"num-words": 0}) == "word3\n"


def test_a_finished_run_passes(done: Path, corpus: Path, tmp_path: Path) -> None:
    for path in (done, corpus):
        ended = run("lightrnn", ["verify", str(path)], tmp_path / path.name).check()
        assert "everything is as it was written" in ended.output


def test_the_report_is_written_anew(done: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(done, tmp_path / "run")
    (copy / "report.html").unlink()
    ended = run("lightrnn", ["report", str(copy)], tmp_path / "logs").check()
    assert ended.output == f"{copy / 'report.html'}\n"
    assert (copy / "report.html").is_file()


def test_training_goes_on_from_a_table_saved_before(
    done: Path, tiny: Options, tmp_path: Path
) -> None:
    table = done / "tables" / "table-0001.arrow"
    arguments = tiny(tmp_path / "run", table__init=table, train__max_steps=1)
    run("train", arguments, tmp_path / "logs", 1).check(75)
    assert WordTable.load(tmp_path / "run/tables/table-0000.arrow") == WordTable.load(table)


def test_a_table_by_frequency(tiny: Options, corpus: Path, tmp_path: Path) -> None:
    arguments = tiny(tmp_path / "run", table__init="frequency", train__max_steps=1)
    run("train", arguments, tmp_path / "logs", 1).check(75)
    counts = Corpus.open(corpus).vocabulary.counts
    table = WordTable.load(tmp_path / "run/tables/table-0000.arrow")
    assert table == WordTable.by_frequency(counts, 16, 16)


@pytest.mark.parametrize("program", ["train", "lightrnn"])
def test_help_names_every_setting(program: Any, tmp_path: Path) -> None:
    arguments = ["--help"] if program == "train" else ["train", "--help"]
    text = run(program, arguments, tmp_path / "logs").check().output
    for name in ("--run-dir", "--train.learning_rate", "--allocation.epochs", "[2,4]"):
        assert name in text


def test_help_names_every_command(tmp_path: Path) -> None:
    text = run("lightrnn", ["--help"], tmp_path / "logs").check().output
    for name in ("prepare", "demo-corpus", "describe", "train", "evaluate", "generate", "report"):
        assert name in text
    assert "verify" in text


def test_prepare_makes_the_corpus_that_training_reads(
    texts: dict[str, Path], corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    files = [part for name, path in texts.items() for part in (f"--{name}", str(path))]
    cut = ["--vocab-size", "250", "--shard-tokens", "2000", "--output", str(folder)]
    ended = run("lightrnn", ["prepare", *files, *cut], tmp_path / "logs").check()
    assert Corpus.open(folder).fingerprint == Corpus.open(corpus).fingerprint
    assert "train: 6000 tokens" in ended.errors[0]
    assert "MB/s" in ended.errors[0]

    checked = run("lightrnn", ["verify", str(folder), "--workers", "2"], tmp_path / "logs").check()
    num_shards = sum(len(split.shards) for split in Corpus.open(folder).manifest.splits.values())
    assert f"checked {num_shards} of {num_shards} shards" in checked.errors[0]


def test_describe_tells_sizes_and_what_the_vocabulary_covers(corpus: Path, tmp_path: Path) -> None:
    text = run("lightrnn", ["describe", str(corpus)], tmp_path / "logs").check().output
    opened = Corpus.open(corpus)
    split, vocabulary = opened.manifest.splits["valid"], opened.vocabulary
    unknown = 100 * split.unknown_tokens / split.tokens
    longest = max(int(lengths.max()) for lengths in opened.split("valid").row_lengths())
    assert f"valid: {split.tokens:,} tokens, {split.rows:,} rows" in text
    assert f"{unknown:.2f} % unknown" in text
    assert f"{longest:,} in the longest" in text
    counts = sorted(
        (n for word, n in zip(vocabulary.words, vocabulary.counts, strict=True) if word != UNK),
        reverse=True,
    )
    share = 100 * sum(counts[:100]) / vocabulary.counts.sum()
    assert f"the 100 most frequent words cover {share:.2f} %" in text
    assert text.splitlines()[-20].split()[-1] == vocabulary.words[0]
