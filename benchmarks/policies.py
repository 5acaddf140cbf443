"""Which policy of reallocation ends at the best perplexity after equal training.

    python benchmarks/policies.py --corpus corpora/ptb --config configs/ptb.toml \\
        --epochs 4 --reallocate-after 0.5,1,2
    python benchmarks/policies.py --quick

Every policy trains the same network for the same steps, from the same first tables. Reallocations
take time, so the run without any is repeated with as many more epochs as the slowest policy's would
have bought it. The last line of the output is JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.measuring import machine, versions
from benchmarks.training_runs import FIRST_TABLE, ROOT, TrainingRun, train, write_small_corpus

NEVER, NEVER_LONGER = "never", "never, equal time"
POLICIES: dict[str, dict[str, object]] = {
    NEVER: {"when": "never"},
    "all, unmeasured": {"moves": "all", "stay_bonus": 0, "max_tries": 0},
    "all, bonus 0.5": {"moves": "all", "stay_bonus": 0.5, "max_tries": 0},
    "all, measured": {"moves": "all", "stay_bonus": 0.1, "max_tries": 6},
    "columns, unmeasured": {"moves": "columns", "stay_bonus": 0, "max_tries": 0},
    "columns, measured": {"moves": "columns", "stay_bonus": 0.1, "max_tries": 4},
}
"""Settings under `allocation`, by name."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        table: the first table.
        policy: one of `POLICIES`, or `NEVER_LONGER`.
        epochs: passes over the training text.
        valid_perplexity, test_perplexity: at the end.
        tokens_moved: share of the training tokens that each reallocation moved; 0 where the table
            was kept.
        seconds, reallocation_seconds: of the whole run, and of its reallocations.
    """

    table: str
    policy: str
    epochs: float
    valid_perplexity: float
    test_perplexity: float
    tokens_moved: list[float]
    seconds: float
    reallocation_seconds: float

    @property
    def extra(self) -> float:
        """What reallocations took beside all else, as a share of that."""
        return self.reallocation_seconds / (self.seconds - self.reallocation_seconds)


@dataclass(frozen=True)
class Comparison:
    """What is trained, and where."""

    corpus: Path
    config: Path
    epochs: float
    reallocate_after: str
    options: dict[str, object]
    folder: Path

    def first_table(self, init: str) -> Path:
        """Make a first table once, for all policies."""
        run_dir = self.folder / f"first-{init}"
        table = run_dir / "tables" / FIRST_TABLE
        if table.exists():
            return table
        options = self._options() | {"table.init": init, "allocation.when": "never"}
        train(run_dir, self.config, options | {"train.max_steps": 1}, may_stop=True)
        return table

    def outcome(self, init: str, table: Path, policy: str, epochs: float) -> Outcome:
        """Train with a policy."""
        name = f"{init}-{policy}".replace(", ", "-").replace(" ", "-")
        options = self._options() | {"table.init": table, "train.epochs": epochs}
        options |= {"allocation.epochs": self.reallocate_after}
        chosen = POLICIES[NEVER if policy == NEVER_LONGER else policy]
        options |= {f"allocation.{key}": value for key, value in chosen.items()}
        run = train(self.folder / name, self.config, options)
        return _read(run, init, policy, epochs)

    def _options(self) -> dict[str, object]:
        return {"data.corpus": self.corpus, "data.verify": "false"} | self.options


def _read(run: TrainingRun, init: str, policy: str, epochs: float) -> Outcome:
    end = run.last("end")
    moves = run.of("reallocation", "kept")
    return Outcome(
        table=init,
        policy=policy,
        epochs=epochs,
        valid_perplexity=end["valid_perplexity"],
        test_perplexity=end["test_perplexity"],
        tokens_moved=[
            record["tokens_moved_fraction"] if record["accepted"] else 0.0 for record in moves
        ],
        seconds=run.seconds,
        reallocation_seconds=run.reallocation_seconds,
    )


def compare(comparison: Comparison, inits: Sequence[str], policies: Sequence[str]) -> list[Outcome]:
    """Train with every policy from every first table, and without any for as long."""
    outcomes = []
    for init in inits:
        table = comparison.first_table(init)
        own = []
        for policy in policies:
            own.append(comparison.outcome(init, table, policy, comparison.epochs))
            _tell(own[-1])
        epochs = round(comparison.epochs * (1 + max(outcome.extra for outcome in own)), 3)
        own.append(comparison.outcome(init, table, NEVER_LONGER, epochs))
        _tell(own[-1])
        outcomes += own
    return outcomes


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare as the command line says."""
    given = _parse(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = given.runs or Path(name)
        corpus = given.corpus
        if given.quick:
            corpus = Path(name) / "corpus"
            write_small_corpus(corpus)
        comparison = Comparison(
            corpus,
            given.config,
            given.epochs,
            given.reallocate_after,
            dict(option.split("=", 1) for option in given.set),
            folder,
        )
        outcomes = compare(comparison, given.tables.split(","), given.policies)
    figures = {
        "benchmark": "policies",
        "corpus": "small" if given.quick else corpus.name,
        "config": given.config.name,
        "set": comparison.options,
        "reallocate_after": given.reallocate_after,
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "machine": machine(),
        "versions": versions(),
    }
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    _print_table(outcomes)
    print(json.dumps(figures))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/policies.py", description=__doc__)
    parser.add_argument("--corpus", type=Path, help="corpus folder with all three splits")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "ptb.toml")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--reallocate-after", default="0.5,1,2", help="epochs")
    parser.add_argument("--tables", default="svd,random", help="first tables, as table.init")
    parser.add_argument(
        "--policies", nargs="+", choices=POLICIES, default=list(POLICIES), metavar="POLICY"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs, to go on from")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.epochs, given.reallocate_after = 1.0, "0.5"
        given.tables, given.policies = "random", [NEVER, "all, unmeasured"]
        given.set = [*given.set, "model.embedding_size=16", "model.hidden_size=16"]
    elif given.corpus is None:
        parser.error("give --corpus, or --quick")
    return given


def _print_table(outcomes: Sequence[Outcome]) -> None:
    print(f"{'table':8} {'policy':20} {'epochs':>7} {'valid':>8} {'test':>8} {'extra':>7}  moved")
    for one in outcomes:
        moved = ", ".join(f"{100 * share:.1f} %" for share in one.tokens_moved)
        print(
            f"{one.table:8} {one.policy:20} {one.epochs:7.3g} {one.valid_perplexity:8.2f} "
            f"{one.test_perplexity:8.2f} {100 * one.extra:5.1f} %  {moved}"
        )


def _tell(outcome: Outcome) -> None:
    print(f"{outcome.table}, {outcome.policy}: {outcome.valid_perplexity:.2f}", file=sys.stderr)


if __name__ == "__main__":
    main()
