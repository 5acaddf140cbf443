"""Bands add up to the text, and intervals hold what they say.

Legend: N words of a text, V words of the vocabulary.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from launcher_runs import read_records, run

from data_shards import EOS, UNK, Corpus, Vocabulary
from launcher.details import WordLosses, bootstrap_interval, describe, details_of

# By rank: 1 eos, 2 unk, 3 to 10, 11 to 15; ids are not in the order of counts.
WORDS = [EOS, UNK, *(f"w{number}" for number in range(13))]
COUNTS = [100, 90, *(20 - number for number in range(13))]
ORDER = np.random.default_rng(0).permutation(15)
VOCABULARY = Vocabulary([WORDS[n] for n in ORDER], [COUNTS[n] for n in ORDER])


def test_bands_are_by_rank_in_the_training_text() -> None:
    ranks_N = np.array([1, 1, 2, 7, 10, 11, 15, 3])
    words_N = np.argsort(ORDER)[ranks_N - 1]
    row_N, column_N = np.arange(1.0, 9.0), np.full(8, 0.5)
    details = details_of(WordLosses(words_N, row_N, column_N), VOCABULARY)
    frequent, rare = details.bands
    assert (frequent.first, frequent.last, frequent.tokens) == (1, 10, 6)
    assert (rare.first, rare.last, rare.tokens) == (11, 15, 2)
    assert rare.row_nll == pytest.approx(6.5)
    assert rare.column_nll == pytest.approx(0.5)
    assert rare.perplexity == pytest.approx(math.exp(7.0))
    assert rare.loss_share == pytest.approx(14 / 40)
    assert frequent.loss_share + rare.loss_share == pytest.approx(1)
    assert details.unknown_share == pytest.approx(1 / 8)
    assert details.known_perplexity == pytest.approx(math.exp((40 - 3.5) / 7))
    assert "11 to 15" in describe(details)


def test_intervals_hold_the_true_value_about_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    true, inside, widths = 5.0, 0, []
    for seed in range(60):
        # Losses that go together over some words, as topics do.
        topic = np.repeat(random.normal(0, 0.5, 600), 10)
        low, high = bootstrap_interval(true + topic + random.normal(0, 2, 6000), seed)
        inside += low < math.exp(true) < high
        widths.append(math.log(high / low))
    assert 50 <= inside <= 60
    short = bootstrap_interval(true + random.normal(0, 2, 1000))
    assert math.log(short[1] / short[0]) > 1.5 * np.mean(widths)


def test_an_interval_of_equal_losses_is_a_point() -> None:
    for num_words in (1, 99, 12_345):
        low, high = bootstrap_interval(np.full(num_words, 2.0))
        assert (low, high) == pytest.approx((math.exp(2), math.exp(2)))


@pytest.fixture(scope="module")
def short_run(tiny: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a few steps."""
    folder = tmp_path_factory.mktemp("short")
    arguments = tiny(folder / "run", train__epochs=0.2, data__eval_lanes=3)
    run("train", arguments, folder / "logs", 1).check()
    return folder / "run"


@pytest.mark.parametrize("size", [1, 2])
def test_words_and_bands_are_those_of_the_perplexity(
    short_run: Path, corpus: Path, tmp_path: Path, size: int
) -> None:
    command = ["evaluate", str(short_run), "--details", "--words", str(tmp_path / "words.tsv")]
    ended = run("lightrnn", command, tmp_path / "logs", size).check()
    assert not any(ended.outputs[1:])
    assert "frequency rank" in ended.output
    found = json.loads(ended.output.splitlines()[-1])
    (end,) = read_records(short_run, "end")
    assert found["perplexity"] == pytest.approx(end["test_perplexity"], rel=1e-6)
    assert found["interval"][0] < found["perplexity"] < found["interval"][1]
    assert sum(band["tokens"] for band in found["bands"]) == found["tokens"]
    assert sum(band["loss_share"] for band in found["bands"]) == pytest.approx(1)

    title, *lines = (tmp_path / "words.tsv").read_text().splitlines()
    assert title.split("\t") == ["word", "log_probability", "row", "column"]
    fields = [line.split("\t") for line in lines]
    for column, name in ((1, "nll"), (2, "row_nll"), (3, "column_nll")):
        mean = -sum(float(field[column]) for field in fields) / len(fields)
        assert mean == pytest.approx(found[name], rel=1e-5)
    opened = Corpus.open(corpus)
    text = opened.split("test").read(0, found["tokens"])
    assert [field[0] for field in fields] == [opened.vocabulary.words[int(word)] for word in text]


def test_words_into_a_missing_folder_are_one_line(short_run: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(short_run), "--words", str(tmp_path / "none" / "words.tsv")]
    run("lightrnn", command, tmp_path / "logs", 1).check_one_line("change --words")
