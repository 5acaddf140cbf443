"""Record the statistics of a trained run, for the solvers of `benchmarks/allocation.py`.

python benchmarks/record.py runs/mine --output mine.safetensors --tokens 10000000
python benchmarks/allocation.py --statistics mine.safetensors
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from allocation import SingleProcess, Storage, collect_statistics, exchange
from allocation.recorded import save_statistics
from data_shards import Corpus
from launcher.batches import all_batches, training_batches
from launcher.inference import load_run
from launcher.processes import joined_processes
from launcher.run_dir import RunDirectory


def main(arguments: Sequence[str] | None = None) -> None:
    """Record as the command line says."""
    parser = argparse.ArgumentParser(prog="benchmarks/record.py", description=__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--corpus", help="where the corpus lies now; else where it lay in training")
    parser.add_argument("--tokens", type=int, help="about how many training tokens; else all")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="for the sums, else in files")
    given = parser.parse_args(arguments)
    with joined_processes() as processes:
        trained = load_run(RunDirectory(given.run), "latest", processes)
        corpus = Corpus.open(Path(given.corpus or trained.settings.data.corpus))
        batches = training_batches(corpus, trained.settings, processes.rank, processes.world_size)
        storage = Storage(given.memory_gib, given.output.parent)
        statistics = collect_statistics(
            trained.model,
            all_batches(batches, processes.device, given.tokens),
            storage=storage,
            carry_state=batches.carries_state,
        )
        exchanged = exchange(statistics, SingleProcess(), storage=storage)
        save_statistics(given.output, exchanged.costs, trained.table)
    counted = exchanged.counts_V.sum()
    loss = (exchanged.row_nll + exchanged.column_nll) / counted
    print(
        f"{counted:.0f} tokens, loss {loss:.4f} +- {exchanged.standard_error:.4f} nats a token, "
        f"{given.output.stat().st_size / 2**20:.0f} MiB in {given.output}"
    )


if __name__ == "__main__":
    main()
