"""The benchmark of the solvers, as it is started by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from allocation.recorded import save_statistics
from benchmarks.simulated import simulate

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, "benchmarks/allocation.py"]


def run(*arguments: str, command: list[str] = SCRIPT) -> list[str]:
    """Return the lines that the benchmark prints."""
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_quick_compares_all_solvers(tmp_path: Path) -> None:
    picture, output = tmp_path / "gaps.png", tmp_path / "figures.json"
    lines = run("--quick", "--picture", str(picture), "--output", str(output))
    figures = json.loads(lines[-1])
    solvers = figures["solvers"]
    assert list(solvers) == ["auction", "greedy", "half", "alternating", "exact", "scipy"]
    optimum = solvers["scipy"]["objective"]
    for run_figures in solvers.values():
        assert run_figures["seconds"] > 0
        assert run_figures["peak_rss_gib"] > 0
        assert run_figures["lower_bound"] <= optimum * (1 + 1e-12)
        assert run_figures["objective"] >= optimum * (1 - 1e-12)
        assert run_figures["gap_percent"] >= run_figures["gap_to_best_bound_percent"] >= 0
    assert solvers["exact"]["objective"] == pytest.approx(optimum, rel=1e-12)
    assert solvers["auction"]["gap_percent"] < 0.01 < solvers["greedy"]["gap_percent"]
    for mode in ("dense", "sharded"):
        assert list(figures["bytes_exchanged"][mode]) == ["1", "2", "4", "8", "16", "32", "64"]
    assert figures["machine"]["cores"] >= 1
    assert "numpy" in figures["versions"]
    assert "time_budget_seconds" in figures["settings"]
    assert json.loads(output.read_text()) == figures
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert all(any(line.split()[:1] == [name] for line in lines) for name in solvers)


def test_recorded_statistics_as_a_module(tmp_path: Path) -> None:
    costs, table = simulate(120, 6, steps=2)
    path = tmp_path / "record.safetensors"
    save_statistics(path, costs, table)
    assert len(load_file(path)["counts_V"]) == 120
    module = [sys.executable, "-m", "benchmarks.allocation"]
    lines = run("--statistics", str(path), "--solvers", "auction@1e-4,nonsense", command=module)
    figures = json.loads(lines[-1])
    assert figures["vocab_size"] == 120
    assert figures["hidden_size"] == 6
    assert figures["statistics"] == "record.safetensors"
    assert figures["objective_before"] == costs.objective(table)
    assert list(figures["solvers"]) == ["auction@1e-4"]
    assert "unknown" in figures["refused"]["nonsense"]
