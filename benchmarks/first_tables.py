"""How good first tables are: validation perplexity of a small network after an epoch.

    python benchmarks/first_tables.py --corpus corpora/ptb --config configs/ptb.toml
    python benchmarks/first_tables.py --quick

Beside the tables that `table.init` names, rows and columns are found from different views of the
text: rows are clusters of words with like neighbours on one side, then the words of each row are
matched to columns by their neighbours on the other. The last line of the output is JSON.

Legend: V words, C columns, D dimensions of a view.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import numpy.typing as npt
from scipy import sparse

from allocation import SingleProcess
from allocation.costs import DenseCosts
from allocation.solvers import solve_within_rows, with_rows_fixed
from allocation.warm_start.neighbours import count_neighbours
from allocation.warm_start.placement import cluster_rows
from allocation.warm_start.svd import COUNT_POWER, NUM_CONTEXTS
from allocation.warm_start.word_vectors import NUM_DIMENSIONS, unit_length, word_vectors
from benchmarks.measuring import machine, versions
from benchmarks.training_runs import ROOT, train, write_small_corpus
from data_shards import Corpus
from lightrnn import WordTable, default_shape

INITS = "random", "frequency", "context", "svd"
VIEWS = {
    "rows after, columns before": (0, 1),
    "rows before, columns after": (1, 0),
    "rows after, columns after": (0, 0),
    "rows before, columns before": (1, 1),
}
"""Which of the views, words after and words before, rows and columns are found from."""

NUM_MATCHINGS = 8
SEED = 1

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """What came of a table: seconds to make it where it was made here, and perplexity."""

    table: str
    seconds: float | None
    valid_perplexity: float


def table_of_views(
    rows_by_VD: FloatArray, columns_by_VD: FloatArray, weights_V: FloatArray, start: WordTable
) -> WordTable:
    """Return a table whose rows are clusters in one view and whose columns are in another."""
    table = cluster_rows(rows_by_VD, weights_V, start)
    ends = np.arange(table.num_words + 1)
    for _ in range(NUM_MATCHINGS):
        members_CV = sparse.csc_array(
            (weights_V, table.column_of_word, ends), shape=(table.num_columns, table.num_words)
        )
        centers_CD = unit_length(members_CV @ columns_by_VD)
        loss_VC = -weights_V[:, None] * (columns_by_VD @ centers_CD.T)
        no_loss_VR = np.zeros((table.num_words, table.num_rows), np.float32)
        costs = with_rows_fixed(DenseCosts(no_loss_VR, loss_VC, weights_V), table, 0.0)
        table = solve_within_rows(costs, table, lambda line: None).table
    return table


def tables_of_views(corpus: Path, folder: Path) -> dict[str, tuple[Path, float]]:
    """Make and save a table from each pair of views; return its file and seconds by name."""
    opened = Corpus.open(corpus)
    counts_V = np.asarray(opened.vocabulary.counts)
    neighbours = count_neighbours(
        opened.split("train"), counts_V, NUM_CONTEXTS, SingleProcess(), ()
    )
    assert neighbours is not None
    both_VD = word_vectors(neighbours, SEED)
    views = [unit_length(both_VD[:, :NUM_DIMENSIONS]), unit_length(both_VD[:, NUM_DIMENSIONS:])]
    weights_V = ((counts_V / counts_V.mean()) ** COUNT_POWER).astype(np.float32)
    start = WordTable.random(len(counts_V), *default_shape(len(counts_V)), SEED)
    made = {}
    for name, (for_rows, for_columns) in VIEWS.items():
        began = time.perf_counter()
        table = table_of_views(views[for_rows], views[for_columns], weights_V, start)
        path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.arrow"
        table.save(path)
        made[name] = path, time.perf_counter() - began
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare as the command line says."""
    given = _parse(arguments)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = given.corpus
        if given.quick:
            corpus = folder / "corpus"
            write_small_corpus(corpus)
        options = dict(option.split("=", 1) for option in given.set)
        options |= {"data.corpus": corpus, "train.epochs": given.epochs}
        options |= {"train.schedule": "constant", "allocation.when": "never"}
        made = tables_of_views(corpus, folder) if given.views else {}
        named: dict[str, tuple[str | Path, float | None]] = {
            one: (one, None) for one in given.inits
        }
        tables = named | made
        for label, (init, seconds) in tables.items():
            run = train(
                folder / f"run-{len(outcomes)}", given.config, options | {"table.init": init}
            )
            outcomes.append(Outcome(label, seconds, run.last("end")["valid_perplexity"]))
            print(f"{label}: {outcomes[-1].valid_perplexity:.2f}", file=sys.stderr)
    figures = {
        "benchmark": "first_tables",
        "corpus": "small" if given.quick else corpus.name,
        "config": given.config.name,
        "set": list(given.set),
        "epochs": given.epochs,
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "machine": machine(),
        "versions": versions(),
    }
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{'table':28} {'valid':>8}")
    for outcome in outcomes:
        print(f"{outcome.table:28} {outcome.valid_perplexity:8.2f}")
    print(json.dumps(figures))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/first_tables.py", description=__doc__)
    parser.add_argument("--corpus", type=Path, help="corpus folder with a validation split")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "ptb.toml")
    parser.add_argument("--epochs", type=float, default=1.0, help="of training on each table")
    parser.add_argument("--inits", nargs="*", default=list(INITS), help="as table.init")
    parser.add_argument("--no-views", dest="views", action="store_false")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        # In a single epoch so small a text teaches next to nothing.
        given.inits, given.epochs = ["random", "svd"], 4.0
        given.set = [*given.set, "model.embedding_size=16", "model.hidden_size=16"]
    elif given.corpus is None:
        parser.error("give --corpus, or --quick")
    return given


if __name__ == "__main__":
    main()
