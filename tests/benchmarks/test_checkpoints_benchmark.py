"""The benchmark of checkpoints runs at a small size, and its figures are consistent."""

import json
from pathlib import Path

import pytest

from benchmarks.checkpoints import main


def test_both_modes_over_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    main(["--quick", "--folder", str(tmp_path), "--output", str(output)])
    figures = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    # Parameters and Adam's two moments, in float32.
    assert figures["checkpoint_mib"] > figures["parameters"] * 12 / 2**20
    for mode in ("sync", "async"):
        assert 0 < figures[mode]["wait_seconds"] < figures[mode]["durable_seconds"]
    assert list(tmp_path.iterdir()) == [output]
