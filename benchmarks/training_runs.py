"""Training runs that benchmarks compare: started as a user would, read from their metrics."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_shards import prepare_corpus
from launcher.stop import STOPPED

Record = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent

FIRST_TABLE = "table-0000.arrow"
"""Name of a run's first table."""


class RunFailure(RuntimeError):
    """A training run ended with an unexpected exit status."""


@dataclass(frozen=True)
class TrainingRun:
    """What a run wrote to its metrics.

    Attributes:
        records: one object a line of `metrics.jsonl`, in order.
    """

    records: list[Record]

    def last(self, event: str) -> Record:
        """Return the last record of an event."""
        return self.of(event)[-1]

    def of(self, *events: str) -> list[Record]:
        """Return all records of some events."""
        return [record for record in self.records if record["event"] in events]

    @property
    def seconds(self) -> float:
        """From the first step to the end, validations and reallocations included.

        Where a run was interrupted, those of all its parts together.
        """
        elapsed = [float(record["elapsed_seconds"]) for record in self.records]
        ends = (one for one, after in pairwise([*elapsed, 0.0]) if after < one)
        return sum(ends)

    @property
    def reallocation_seconds(self) -> float:
        """Spent in reallocations, whether a table was taken or not."""
        return sum(sum(record["seconds"].values()) for record in self.of("reallocation", "kept"))


def train(
    run_dir: Path, config: Path, options: Mapping[str, object], *, may_stop: bool = False
) -> TrainingRun:
    """Run `lightrnn train` with one process to its end.

    Args:
        run_dir: of the run.
        config: TOML file.
        options: by their dotted names.
        may_stop: whether it may end at `train.max_steps`.

    Raises:
        RunFailure: it failed; its last lines are in the message.
    """
    arguments = ["train", "--config", config, "--run-dir", run_dir]
    for name, value in options.items():
        arguments += [f"--{name}", value]
    run_cli(*arguments, statuses=(0, STOPPED) if may_stop else (0,))
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return TrainingRun([json.loads(line) for line in lines])


def run_cli(*arguments: object, statuses: Sequence[int] = (0,)) -> None:
    """Run `lightrnn` with one process and one thread.

    Raises:
        RunFailure: it ended otherwise than by one of `statuses`; its last lines are in the message.
    """
    command = [sys.executable, "-m", "launcher.cli", *map(str, arguments)]
    # One thread, so that runs side by side do not disturb each other's sums or speed.
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    if done.returncode not in statuses:
        raise RunFailure(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )


def write_small_corpus(corpus: Path) -> None:
    """Make a corpus of some thousand words for a trial of a benchmark: phrases, in any order."""
    draw = random.Random(1)
    words = [f"w{number}" for number in range(300)]
    phrases = [" ".join(draw.choices(words, k=3)) for _ in range(200)]
    text = corpus.with_name("small.txt")
    text.write_text("".join(f"{' '.join(draw.choices(phrases, k=3))}\n" for _ in range(1500)))
    prepare_corpus([text], [text], [text], corpus)
