"""The benchmark of corpora, as it is started by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_quick_prints_its_figures(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/corpus.py", "--quick", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(output.read_text()) == figures
    assert {"prepare_mb_per_s", "loader_tokens_per_s", "peak_rss_gib"} <= figures.keys()
    one, two = figures["preparations"]
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["fingerprint"] == two["fingerprint"]
    assert one["words"] == 20_000 + 2
    assert one["text_mb"] > 1
    assert 0.05 < one["worker_peak_gib"] <= figures["peak_rss_gib"] < 2
    assert figures["datasets_mb_per_s"] > 0
    assert 0 <= figures["data_wait_share"] < 1
    assert figures["seconds_to_open_10000_shards"] > 0
