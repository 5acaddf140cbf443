"""A small corpus for the tests of `launcher`, and the settings of small runs on it."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_runs import options

from data_shards import Recipe, prepare_corpus

NUM_WORDS = 300


def write_text(path: Path, num_tokens: int, seed: int) -> Path:
    """Write a text in which each word has a few likely followers, and frequent words are short."""
    followers = random.Random(0)
    likely = [followers.choices(range(NUM_WORDS), k=4) for _ in range(NUM_WORDS)]
    draw = random.Random(seed)
    lines, word = [], 0
    while num_tokens > 0:
        line = []
        for _ in range(min(draw.randint(4, 14), num_tokens - 1)):
            rare = draw.random() < 0.3
            word = int(NUM_WORDS * draw.random() ** 3) if rare else draw.choice(likely[word])
            line.append(f"word{word}")
        num_tokens -= len(line) + 1
        lines.append(" ".join(line) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a text file a split."""
    folder = tmp_path_factory.mktemp("texts")
    return {
        "train": write_text(folder / "train.txt", 6000, seed=1),
        "valid": write_text(folder / "valid.txt", 600, seed=2),
        "test": write_text(folder / "test.txt", 607, seed=3),
    }


@pytest.fixture(scope="session")
def corpus(texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a corpus folder of about 300 words, its training text in several shards."""
    folder = tmp_path_factory.mktemp("corpora") / "small"
    prepare_corpus(
        [texts["train"]],
        [texts["valid"]],
        [texts["test"]],
        folder,
        Recipe(vocab_size=250, shard_tokens=2000),
    )
    return folder


@pytest.fixture(scope="session")
def tiny(corpus: Path) -> Callable[..., list[str]]:
    """Return a function that gives the options of a run of 60 steps an epoch, 90 in all.

    Ten lanes do not divide evenly among four processes. Words are reallocated after step 30.
    """

    def arguments(run_dir: Path, **settings: object) -> list[str]:
        defaults: dict[str, object] = {
            "data__corpus": corpus,
            "data__num_lanes": 10,
            "data__bptt": 10,
            "data__eval_lanes": 6,
            "model__embedding_size": 12,
            "model__hidden_size": 16,
            "train__epochs": 1.5,
            "train__warmup_steps": 5,
            "train__log_every_steps": 1,
            "allocation__epochs": 0.5,
            "allocation__measure_tokens": 1000,
            "checkpoint__every_steps": 45,
            "checkpoint__keep": 20,
        }
        return options(run_dir=run_dir, **{**defaults, **settings})

    return arguments
