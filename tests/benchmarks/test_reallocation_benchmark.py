"""The benchmark of a whole reallocation runs at a small size, and its figures are consistent."""

import json
from pathlib import Path

import pytest

from benchmarks.reallocation import main


@pytest.mark.parametrize("exchange", ["dense", "sharded"])
def test_both_exchanges_over_two_ranks(
    exchange: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"

    main(["--quick", "--ranks", "2", "--exchange", exchange, "--output", str(output)])

    figures = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    report = figures["report"]
    assert report["words_moved"] > figures["vocab_size"] / 2
    assert report["loss_predicted"] < report["loss_before"]
    assert 0 <= report["gap_percent"] < 0.01
    assert report["bytes_exchanged"] > figures["vocab_size"] * 8


def test_out_of_time_it_still_prints_a_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--quick", "--ranks", "2", "--time-budget", "0"])

    report = json.loads(capsys.readouterr().out.splitlines()[-1])["report"]
    assert 0.01 < report["gap_percent"] < 100
