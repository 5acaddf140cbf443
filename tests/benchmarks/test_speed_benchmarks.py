"""The benchmarks of speed run at a small size, and their figures are consistent."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu, scaling_model
from benchmarks.rivals_picture import draw_rivals
from launcher.settings import ModelSettings
from launcher.setup import make_model
from lightrnn import default_shape

ROOT = Path(__file__).parents[2]


def printed_by(script: str, *options: str) -> dict[str, Any]:
    """Return the figures of a benchmark's small size."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}", "--quick", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.slow
def test_two_processes_are_measured_beside_one(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"

    figures = printed_by("scaling.py", "--world-sizes", "1,2", "--output", str(output))

    assert json.loads(output.read_text()) == figures
    one, two = figures["by_world_size"]["1"], figures["by_world_size"]["2"]
    assert (one["efficiency"], one["communication_share"]) == (1, 0)
    assert two["efficiency"] == pytest.approx(two["words_per_s"] / 2 / one["words_per_s"])
    assert 0 <= two["communication_share"] < 1
    assert two["bytes_per_step"] == 4 * two["parameters"]


@pytest.mark.slow
def test_passes_are_measured_beside_training() -> None:
    figures = printed_by("evaluation.py", "--threads", "1")

    speeds = figures["words_per_s"]
    assert figures["times_training"]["statistics"] == pytest.approx(
        speeds["statistics"] / speeds["train"]
    )
    assert figures["times_forward"]["forward"] == 1
    assert 0 < figures["index_add_share"] < 1


@pytest.mark.slow
def test_all_parts_of_the_gpu_benchmark_run_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "figures.json"

    figures = printed_by("gpu.py", "--minutes", "30", "--output", str(output))

    assert json.loads(output.read_text()) == figures
    assert (figures["left_out"], figures["failed"]) == ([], {})
    assert figures["lightrnn"]["by_lanes"]["64"]["share_of_ceiling"] > 0
    assert 0 < figures["precision"]["largest_relative_difference"] < 0.02
    assert figures["communication"]["world_size"] == 1
    share = figures["reallocation"]
    assert share["share_with_a_tenth_of_the_tokens"] < share["share_with_all_tokens"]


def test_parts_for_which_there_is_no_time_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu.main(["--quick", "--minutes", "0", "--output", str(tmp_path / "figures.json")])

    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["left_out"] == list(gpu.parts(gpu.SMALL_SIZE, {}, quick=True))


def test_the_model_on_paper_counts_parameters_and_bytes_as_they_are() -> None:
    run = scaling_model.Run(1000, 24, 2, 64, 1e6, 1e5)
    settings = ModelSettings(embedding_size=24, hidden_size=24, num_layers=2)

    assert run.parameters == make_model(settings, 1000, *default_shape(1000)).num_parameters
    machine = scaling_model.Machine(1000, 3000, 5, 8, 300, 40, 2, 0)
    # Within a host of 8 each GPU sends 7/4 of the bytes; between 4 hosts 3/2 of its eighth.
    within, between = 7 / 4 * 1e9 / 300e9, 3 / 2 * 1e9 / 8 / 40e9
    assert scaling_model.all_reduce_seconds(1e9, 32, machine) == pytest.approx(within + between)
    assert scaling_model.all_reduce_seconds(1e9, 1, machine) == 0


@pytest.mark.parametrize("overlap", [True, False])
def test_the_words_named_for_ninety_percent_give_ninety_percent(overlap: bool) -> None:
    run = scaling_model.Run(793_471, 1000, 2, 8192, 8e8, 5e7)
    machine = scaling_model.Machine(1e6, 3e6, 250, 8, 300, 40, 2, 15)
    words = scaling_model.least_words(run, 256, machine, overlap=overlap)

    def efficiency(words_per_step: int) -> float:
        changed = replace(run, words_per_step=words_per_step)
        return scaling_model.efficiency(changed, 256, machine, overlap=overlap)

    assert efficiency(words) == pytest.approx(0.9, abs=1e-4)
    assert efficiency(words // 2) < 0.85


def test_the_model_takes_over_what_a_gpu_was_measured_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {
        "plan": {
            "vocab_size": 10_000,
            "hidden_size": 8,
            "num_layers": 1,
            "num_lanes": 4,
            "bptt": 5,
        },
        "rivals": {"lightrnn": {"words_per_s": 123.0, "reallocation": {"seconds": {"solve": 7}}}},
        "evaluation": {"words_per_s": {"statistics": 456.0}},
    }
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(measured))

    scaling_model.main(["--measured", str(path)])

    printed = capsys.readouterr().out
    figures = json.loads(printed.splitlines()[-1])
    assert "the speed of one GPU is measured" in printed
    assert figures["run"]["words_per_step"] == 20
    assert figures["machine_model"]["statistics_words_per_s"] == 456
    assert figures["by_world_size"]["1"]["words_per_s"] == pytest.approx(123)
    assert figures["by_world_size"]["4"]["solve_s"] == 7


def test_operations_are_those_of_layers_and_heads() -> None:
    plan = replace(gpu.FULL_SIZE, vocab_size=100, hidden_size=2, num_layers=1)

    # Two half-steps of 8 x 4 weights, 20 outputs of 2 weights; a product and a sum each; 3 passes.
    assert gpu.flops_per_word(plan) == 3 * 2 * (2 * 32 + 20 * 2)


def test_models_that_do_not_fit_are_drawn_by_their_estimate(tmp_path: Path) -> None:
    fits = {"words_per_s": 10.0, "peak_memory_gib": 1.0, "parameters": 5, "checkpoint_mb": 1.0}
    none = {"parameters": 9, "checkpoint_mb": 9.0, "not_run": "too large", "estimated_gib": 99.0}
    runs = [
        {"vocab_size": 10, "models": {"lightrnn": fits | {"reallocation_s": 3.0}, "tied": fits}},
        {"vocab_size": 20, "models": {"lightrnn": fits, "tied": none}},
    ]

    draw_rivals(runs, tmp_path / "picture.png")

    assert (tmp_path / "picture.png").stat().st_size > 5000
