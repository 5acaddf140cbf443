"""The benchmarks that train: policies of reallocation and first tables, as started by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def quick(script: str, output: Path) -> dict[str, Any]:
    """Return the figures of a benchmark's small size, which it prints and writes alike."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--quick", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(output.read_text()) == figures
    return figures


@pytest.mark.slow
def test_policies_are_compared_after_equal_training(tmp_path: Path) -> None:
    figures = quick("policies.py", tmp_path / "figures.json")

    never, moved, longer = figures["outcomes"]
    assert (never["policy"], never["tokens_moved"], never["reallocation_seconds"]) == (
        "never",
        [],
        0,
    )
    assert len(moved["tokens_moved"]) == 1
    assert moved["reallocation_seconds"] > 0
    extra = moved["reallocation_seconds"] / (moved["seconds"] - moved["reallocation_seconds"])
    assert longer["epochs"] == pytest.approx(1 + extra, abs=1e-3)


@pytest.mark.slow
def test_first_tables_are_compared_by_what_is_learned_on_them(tmp_path: Path) -> None:
    figures = quick("first_tables.py", tmp_path / "figures.json")

    perplexity = {one["table"]: one["valid_perplexity"] for one in figures["outcomes"]}
    assert list(perplexity) == [
        "random",
        "svd",
        "rows after, columns before",
        "rows before, columns after",
        "rows after, columns after",
        "rows before, columns before",
    ]
    # Other tables make other networks, and all of them know more than nothing of 302 words.
    assert len(set(perplexity.values())) == len(perplexity)
    assert max(perplexity.values()) < 302


@pytest.mark.slow
def test_qualities_are_compared_by_one_recipe(tmp_path: Path) -> None:
    figures = quick("quality.py", tmp_path / "figures.json")

    outcomes = {one["model"]: one for one in figures["outcomes"]}
    rivals = [
        f"{name} ={equal}"
        for name in ("full", "tied", "adaptive", "classes")
        for equal in ("width", "parameters")
    ]
    networks = ["random", "reallocated", "svd", "own"]
    assert list(outcomes) == [*networks, *rivals, "kneser-ney", "own + kneser-ney"]
    parts = [outcomes[name]["valid_perplexity"] for name in ("own", "kneser-ney")]
    assert outcomes["own + kneser-ney"]["valid_perplexity"] < max(parts)
    budget = outcomes["own"]["parameters"]
    for name, outcome in outcomes.items():
        # 302 words; whoever learned nothing would be there.
        assert 1 < outcome["test_perplexity"] < 302, name
        if name.endswith("=parameters"):
            assert outcome["parameters"] <= budget
        if name.endswith("=width"):
            assert outcome["width"] == 16
    assert len({round(one["test_perplexity"], 6) for one in outcomes.values()}) >= 10
