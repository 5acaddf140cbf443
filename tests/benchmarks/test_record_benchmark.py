"""Statistics of a trained run, recorded and given to the benchmark of the solvers."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lightrnn.table import WordTable

ROOT = Path(__file__).parents[2]
LIGHTRNN = str(Path(sysconfig.get_path("scripts")) / "lightrnn")


def call(*command: str) -> list[str]:
    """Return the lines that a command prints."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_statistics_of_a_run_are_recorded_and_solved(tmp_path: Path) -> None:
    text, corpus, run = tmp_path / "text", tmp_path / "corpus", tmp_path / "run"
    recorded = tmp_path / "statistics.safetensors"
    text.write_text("the cat saw a dog and the dog saw a cat\n" * 200)
    split = [part for name in ("train", "valid", "test") for part in (f"--{name}", str(text))]
    call(LIGHTRNN, "prepare", *split, "--output", str(corpus))
    call(
        *(LIGHTRNN, "train", "--data.corpus", str(corpus), "--run-dir", str(run)),
        *("--nproc-per-node", "1", "--train.epochs", "1"),
        *("--data.num_lanes", "4", "--model.embedding_size", "8", "--model.hidden_size", "8"),
    )

    told = call(
        *(sys.executable, "benchmarks/record.py", str(run)),
        *("--output", str(recorded), "--tokens", "1000"),
    )
    solved = call(
        *(sys.executable, "benchmarks/allocation.py"),
        *("--statistics", str(recorded), "--solvers", "auction,scipy"),
    )

    figures = json.loads(solved[-1])
    tokens = int(told[-1].split()[0])
    assert 1000 <= tokens < 2400
    assert figures["tokens"] == tokens
    assert f"loss {figures['objective_before'] / tokens:.4f} +-" in told[-1]
    table = WordTable.load(sorted((run / "tables").glob("*.arrow"))[-1])
    assert (figures["vocab_size"], figures["num_rows"]) == (table.num_words, table.num_rows)
    assert figures["solvers"]["scipy"]["objective"] <= figures["objective_before"]
