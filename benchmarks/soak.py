"""Break training at random points, start it again each time, and check that it ends as it should.

    sudo python benchmarks/soak.py --faults 60 --seed 1 --json benchmarks/results/soak.json

Four ranks on four hosts (network namespaces, whence root) train small models. A lap is one run: it
is broken again and again until it has reached its last step, and its losses are then compared with
those of a run that nothing has happened to: to the bit where every start had the same number of
ranks, to 1e-4 where it changed. After each fault every checkpoint is verified.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "launcher"
sys.path[:0] = [str(ROOT), str(TESTS), str(TESTS / "cluster")]

from conftest import write_text  # noqa: E402
from hosts import Hosts, why_no_hosts  # noqa: E402
from launcher_runs import measured, options  # noqa: E402
from measuring import machine  # noqa: E402
from soak_faults import KINDS, Attempt, Lap  # noqa: E402
from soak_torchrun import AGENT_KINDS, break_agents  # noqa: E402

from data_shards import Recipe, prepare_corpus  # noqa: E402

STEP_SECONDS = 8
EVENTS = ("train", "valid", "reallocation", "end")


@dataclass(frozen=True)
class Row:
    """What came of all faults of one kind."""

    fault: str
    tried: int
    went_on: int
    ended_and_named: int
    ended_otherwise: int
    hung: int
    checkpoints_lost: int
    median_seconds: float
    most_seconds: float
    most_steps_again: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=60, help="how many, at least")
    parser.add_argument("--agent-faults", type=int, default=6, help="so many of them on torchrun")
    parser.add_argument("--seed", type=int, default=1, help="of kinds, places and moments")
    parser.add_argument("--quick", action="store_true", help="three faults, without torchrun")
    parser.add_argument("--json", type=Path, help="file that gets the figures too")
    arguments = parser.parse_args()
    if why_no_hosts():
        parser.exit(2, f"error: {why_no_hosts()}\n")
    num_faults = 3 if arguments.quick else arguments.faults
    num_agent_faults = 0 if arguments.quick else arguments.agent_faults
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, Hosts(4) as hosts:
        attempts, same = soak(
            Path(name), hosts, random.Random(arguments.seed), num_faults, num_agent_faults
        )
    rows = [
        summary(kind, [one for one in attempts if one.kind == kind])
        for kind in (*KINDS, *AGENT_KINDS)
        if any(one.kind == kind for one in attempts)
    ]
    show(rows)
    right = sum(same)
    print(f"\n{len(attempts)} faults in {len(same)} laps, of which {right} ended with the losses")
    print("of a run that nothing happened to")
    figures = {
        "machine": machine(),
        "seed": arguments.seed,
        "faults": len(attempts),
        "laps": len(same),
        "laps_with_right_losses": right,
        "step_timeout_seconds": STEP_SECONDS,
        "seconds": round(time.monotonic() - began, 1),
        "by_kind": [asdict(row) for row in rows],
        "attempts": [asdict(one) for one in attempts],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({name: value for name, value in figures.items() if name != "attempts"}))
    failed = [one for one in attempts if one.outcome == "hung" or one.checkpoints_lost]
    return 1 if failed or right < len(same) else 0


def soak(
    folder: Path, hosts: Hosts, draw: random.Random, num_faults: int, num_agent_faults: int
) -> tuple[list[Attempt], list[bool]]:
    """Break runs until so many faults have struck; return them, and which laps ended right."""
    corpus = make_corpus(folder)
    settings = partial(run_options, corpus)
    attempts: list[Attempt] = []
    same: list[bool] = []
    whole = Lap(folder / "whole", hosts, settings, draw, same_size=True)
    whole.finish()
    while len(attempts) < num_faults - num_agent_faults:
        number = len(same)
        lap = Lap(folder / f"lap-{number}", hosts, settings, draw, same_size=number % 2 == 0)
        wanted = num_faults - num_agent_faults - len(attempts)
        for attempt in lap.broken(wanted):
            attempts.append(attempt)
            print(f"{len(attempts):3d}  {attempt.describe()}", flush=True)
        lap.finish()
        same.append(lap.ended_like(whole.run_dir, EVENTS))
        print(f"     lap {number} ended {'right' if same[-1] else 'WRONG'}", flush=True)
        lap.close()
    if num_agent_faults:
        for attempt in break_agents(folder / "agents", hosts, settings, draw, num_agent_faults):
            attempts.append(attempt)
            print(f"{len(attempts):3d}  {attempt.describe()}", flush=True)
        expected = measured(whole.run_dir, "end")
        found = measured(folder / "agents" / "run", "end")
        same.append(close_to(found, expected))
        print(f"     the lap of torchrun ended {'right' if same[-1] else 'WRONG'}", flush=True)
    whole.close()
    return attempts, same


def close_to(found: list[dict[str, object]], expected: list[dict[str, object]]) -> bool:
    """Return whether the final perplexities agree to 1e-4."""
    if len(found) != 1:
        return False
    return all(
        abs(float(str(found[0][name])) / float(str(expected[0][name])) - 1) < 1e-4
        for name in ("valid_perplexity", "test_perplexity")
    )


def make_corpus(folder: Path) -> Path:
    """Write a small corpus."""
    sizes = {"train": 6000, "valid": 600, "test": 600}
    texts = [
        [write_text(folder / f"{split}.txt", size, seed)]
        for seed, (split, size) in enumerate(sizes.items())
    ]
    prepare_corpus(*texts, folder / "corpus", Recipe(vocab_size=250, shard_tokens=2000))
    return folder / "corpus"


def run_options(corpus: Path, run_dir: Path, **more: object) -> list[str]:
    """Return the options of a run of 180 steps with a reallocation in each of three epochs."""
    return options(
        run_dir=run_dir,
        data__corpus=corpus,
        data__num_lanes=10,
        data__bptt=10,
        data__eval_lanes=6,
        model__embedding_size=12,
        model__hidden_size=16,
        train__epochs=3,
        train__warmup_steps=5,
        train__log_every_steps=1,
        train__eval_every_epochs=0.25,
        allocation__epochs="0.5,1.2,2.1",
        allocation__measure_tokens=1000,
        checkpoint__every_steps=10,
        checkpoint__keep=3,
        processes__start_timeout_minutes=1,
        processes__step_timeout_seconds=STEP_SECONDS,
        **more,
    )


def summary(kind: str, attempts: list[Attempt]) -> Row:
    """Return what came of the faults of a kind."""
    count: Callable[[str], int] = [one.outcome for one in attempts].count
    seconds = [one.seconds for one in attempts]
    return Row(
        fault=kind,
        tried=len(attempts),
        went_on=count("went on"),
        ended_and_named=count("ended, named"),
        ended_otherwise=count("ended"),
        hung=count("hung"),
        checkpoints_lost=sum(one.checkpoints_lost for one in attempts),
        median_seconds=round(statistics.median(seconds), 1),
        most_seconds=round(max(seconds), 1),
        most_steps_again=max(one.steps_again for one in attempts),
    )


def show(rows: list[Row]) -> None:
    """Print the table, in Markdown."""
    headers = [name.replace("_", " ") for name in asdict(rows[0])]
    print(f"\n| {' | '.join(headers)} |\n|{' --- |' * len(headers)}")
    for row in rows:
        print(f"| {' | '.join(str(value) for value in asdict(row).values())} |")


if __name__ == "__main__":
    sys.exit(main())
