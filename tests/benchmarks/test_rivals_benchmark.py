"""The benchmark of rivals runs at a small size, and its figures are consistent."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rival_runs
from benchmarks.rival_models import RivalError
from benchmarks.rival_runs import Apart, Contestant, Plan, estimated_gib, size_of
from benchmarks.rivals import main

PLAN = Plan(
    vocab_size=500,
    hidden_size=64,
    num_layers=1,
    num_lanes=4,
    bptt=3,
    dropout=0.1,
    threads=1,
    device="cpu",
    precision="auto",
)


def test_two_models_by_turns_and_one_that_has_no_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"

    status = main(
        f"--quick --threads 1 --vocab-size 2000 --models tied,full --memory-gib 0.46 "
        f"--reallocation-seconds 60 --output {output}".split()
    )

    figures = json.loads(output.read_text())
    assert status == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    lightrnn, tied, full = (figures["models"][name] for name in ("lightrnn", "tied", "full"))
    assert lightrnn["parameters"] < tied["parameters"] < full["parameters"]
    assert tied["lightrnn_times_faster"] == pytest.approx(
        lightrnn["words_per_s"] / tied["words_per_s"]
    )
    assert tied["lightrnn_times_faster_by_cpu_time"] == pytest.approx(
        lightrnn["words_per_cpu_s"] / tied["words_per_cpu_s"]
    )
    assert "allowed are 0.5" in full["not_run"]
    assert "words_per_s" not in full
    assert lightrnn["reallocation_s"] > 0
    assert lightrnn["reallocation"]["tokens"] >= 20_000


def test_an_unknown_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--models", "tied,fulll"])

    assert "found 'fulll', expected some of lightrnn, full" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lightrnn", "full", "tied", "adaptive", "sampled"])
def test_each_model_learns_and_weighs_what_was_foretold(name: Any) -> None:
    contestant = Contestant(name, PLAN)
    inputs, targets = next(contestant.batches)
    state = contestant.model.initial_state(PLAN.num_lanes)

    def loss() -> float:
        contestant.model.eval()
        *nll, _ = contestant.model(inputs, targets, state)
        contestant.model.train()
        return float(sum(one.item() for one in nll))

    before = loss()
    for _ in range(64):
        contestant.step()

    assert loss() < before - 1
    foretold, found = size_of(name, PLAN), contestant.size()
    assert found.parameters == foretold.parameters
    assert found.checkpoint_mb == pytest.approx(foretold.checkpoint_mb, abs=1e-3)
    assert estimated_gib(name, PLAN) == pytest.approx(0.45, abs=0.02)


def test_a_rival_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, name: str, plan: Plan) -> None:
            self.contestant = Contestant("lightrnn", plan)
            self.fails = name == "full"

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None: ...

        def ask(self, method: str, *arguments: Any) -> Any:
            if self.fails:
                raise RivalError("out of memory")
            return getattr(self.contestant, method)(*arguments)

    monkeypatch.setattr(rival_runs, "Apart", Failing)
    own: Any = Failing("lightrnn", PLAN)

    outcomes, failures = rival_runs.contest(own, ["full", "tied"], PLAN, 2, 0.01)

    assert list(outcomes) == ["lightrnn", "tied"]
    assert failures == {"full": "out of memory"}
    assert len(outcomes["tied"].own_speeds) == len(outcomes["lightrnn"].speeds) == 2


def test_a_failure_in_the_process_apart_is_told_here() -> None:
    with Apart("lightrnn", PLAN) as apart, pytest.raises(RivalError, match="no_such_method"):
        apart.ask("no_such_method")
