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
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "launcher"
sys.path[:0] = [str(ROOT), str(TESTS), str(TESTS / "cluster")]

from conftest import write_text  # noqa: E402
from hosts import Hosts, why_no_hosts  # noqa: E402
from launcher_runs import measured, options  # noqa: E402
from measuring import machine, versions  # noqa: E402
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
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no fault after these")
    parser.add_argument(
        "--merge", type=Path, nargs="+", help="break nothing, but add up what these files tell"
    )
    parser.add_argument("--seed", type=int, default=1, help="of kinds, places and moments")
    parser.add_argument("--quick", action="store_true", help="three faults, without torchrun")
    parser.add_argument("--json", type=Path, help="file that gets the figures too")
    arguments = parser.parse_args()
    if arguments.merge:
        parts = [json.loads(path.read_text()) for path in arguments.merge]
        figures = {
            "machine": parts[0]["machine"],
            "versions": parts[0]["versions"],
            **merged(parts),
        }
    elif why_no_hosts():
        parser.exit(2, f"error: {why_no_hosts()}\n")
    else:
        num_faults = 3 if arguments.quick else arguments.faults
        num_agent_faults = 0 if arguments.quick else arguments.agent_faults
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name, Hosts(4) as hosts:
            soak = Soak(Path(name), hosts, random.Random(arguments.seed), 60 * arguments.minutes)
            soak.run(num_faults, num_agent_faults)
        figures = {
            "machine": machine(),
            "versions": versions(),
            "seeds": [arguments.seed],
            "step_timeout_seconds": STEP_SECONDS,
            "seconds": round(time.monotonic() - began, 1),
            "laps": len(soak.right),
            "laps_with_right_losses": sum(soak.right),
            "attempts": [asdict(one) for one in soak.attempts],
        }
    attempts = [Attempt(**one) for one in figures.pop("attempts")]
    rows = [
        summary(kind, [one for one in attempts if one.kind == kind])
        for kind in (*KINDS, *AGENT_KINDS)
        if any(one.kind == kind for one in attempts)
    ]
    figures |= {"faults": len(attempts), "by_kind": [asdict(row) for row in rows]}
    show(rows)
    print(f"\n{figures['faults']} faults in {figures['laps']} laps, of which", end=" ")
    print(f"{figures['laps_with_right_losses']} ended with the losses of a run left in peace")
    if arguments.json:
        content = {**figures, "attempts": [asdict(one) for one in attempts]}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(figures))
    failed = [one for one in attempts if one.outcome == "hung" or one.checkpoints_lost]
    return 1 if failed or figures["laps_with_right_losses"] < figures["laps"] else 0


def merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of several soaks as those of one."""
    names = ("seeds", "seconds", "laps", "laps_with_right_losses", "attempts")
    added = {name: sum((part[name] for part in parts[1:]), parts[0][name]) for name in names}
    return {"step_timeout_seconds": parts[0]["step_timeout_seconds"], **added}


class Soak:
    """Runs that are broken until enough faults have struck.

    Args:
        folder: for runs.
        hosts: where their ranks are.
        draw: decides everything.
        seconds: after which no fault begins.

    Attributes:
        attempts: the faults.
        right: of each lap, whether its losses are those of a run left in peace.
    """

    def __init__(self, folder: Path, hosts: Hosts, draw: random.Random, seconds: float) -> None:
        self.folder, self.hosts, self.draw = folder, hosts, draw
        self.deadline = time.monotonic() + seconds
        self.attempts: list[Attempt] = []
        self.right: list[bool] = []
        self.laps: list[Lap] = []
        self.settings = partial(run_options, make_corpus(folder))

    def run(self, num_faults: int, num_agent_faults: int) -> None:
        """Break runs until so many faults have struck, so many of them under torchrun."""
        try:
            self._run(num_faults, num_agent_faults)
        finally:
            for lap in self.laps:
                lap.close()

    def _run(self, num_faults: int, num_agent_faults: int) -> None:
        whole = self._lap("whole", same_size=True)
        whole.finish()
        if num_agent_faults:
            folder = self.folder / "agents"
            self._tell_all(
                break_agents(folder, self.hosts, self.settings, self.draw, num_agent_faults)
            )
            found, expected = (measured(path, "end") for path in (folder / "run", whole.run_dir))
            self._judge(close_to(found, expected))
        while len(self.attempts) < num_faults and time.monotonic() < self.deadline:
            number = len(self.right)
            lap = self._lap(f"lap-{number}", same_size=number % 2 == 0)
            self._tell_all(lap.broken(num_faults - len(self.attempts), self.deadline))
            lap.finish()
            self._judge(lap.ended_like(whole.run_dir, EVENTS))

    def _lap(self, name: str, *, same_size: bool) -> Lap:
        folder = self.folder / name
        self.laps.append(Lap(folder, self.hosts, self.settings, self.draw, same_size=same_size))
        return self.laps[-1]

    def _tell_all(self, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            self.attempts.append(attempt)
            print(f"{len(self.attempts):3d}  {attempt.describe()}", flush=True)

    def _judge(self, right: bool) -> None:
        self.right.append(right)
        print(f"     lap {len(self.right)} ended {'right' if right else 'WRONG'}", flush=True)


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
        allocation__timeout_minutes=1,
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
