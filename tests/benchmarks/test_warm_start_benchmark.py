"""The benchmark of first tables, as it is started by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("init", ["svd", "context"])
def test_quick_prints_its_figures(tmp_path: Path, init: str) -> None:
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/warm_start.py", "--quick"),
            *("--init", init, "--output", str(output)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(output.read_text()) == figures
    assert (figures["init"], figures["vocab_size"], figures["tokens"]) == (init, 5000, 200_000)
    assert figures["seconds"] > 0
    assert figures["peak_rss_gib"] > 0.1
    assert {"platform", "cores"} <= figures["machine"].keys()
