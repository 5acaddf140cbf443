"""Seconds and memory of a first table from the text, by size of the vocabulary.

    python benchmarks/warm_start.py --corpus corpora/mine
    python benchmarks/warm_start.py --vocab-size 1000000 --tokens 50000000
    python benchmarks/warm_start.py --vocab-size 1000000 --tokens 50000000 --init context
    python benchmarks/warm_start.py --quick

Without a corpus the text is simulated: independent words by Zipf's law, which has more different
pairs of neighbours than real text, and no sense. `context` reads the first four million tokens, as
many as in training. The last line of the output is JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from allocation import SingleProcess
from allocation.warm_start import context_table, svd_table
from allocation.warm_start.neighbours import Tokens
from benchmarks.measuring import in_own_process, machine, peak_rss_gib, versions
from benchmarks.simulated import zipf_text
from data_shards import Corpus
from lightrnn import default_shape

QUICK_VOCAB_SIZE, QUICK_TOKENS = 5000, 200_000
CONTEXT_TOKENS, NUM_LANES, BPTT = 4_000_000, 128, 35
SEED = 1


@dataclass(frozen=True)
class Figures:
    """What a first table took."""

    init: str
    vocab_size: int
    num_rows: int
    num_columns: int
    tokens: int
    seconds: float
    peak_rss_gib: float


class SimulatedText:
    """Independent words by Zipf's law, the most frequent one first."""

    def __init__(self, vocab_size: int, tokens: int) -> None:
        self.words = zipf_text(vocab_size, tokens, SEED)

    def __len__(self) -> int:
        return len(self.words)

    def read(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Return the words at `start` to `stop - 1`; the first one stands at -1 too."""
        return self.words[np.maximum(np.arange(start, stop), 0)]


def measure(init: str, corpus: Path | None, vocab_size: int, tokens: int) -> Figures:
    """Make a first table in this process, which had best be a fresh one."""
    if corpus is None:
        text = SimulatedText(vocab_size, tokens)
        counts = np.bincount(text.words, minlength=vocab_size)
    else:
        opened = Corpus.open(corpus)
        text, counts = opened.split("train"), np.asarray(opened.vocabulary.counts)
    num_rows, num_columns = default_shape(len(counts))
    began = time.perf_counter()
    if init == "context":
        _make_context_table(text, len(counts), num_rows, num_columns)
    else:
        svd_table(text, counts, num_rows, num_columns, SEED, SingleProcess(), on_progress=_tell)
    seconds = time.perf_counter() - began
    return Figures(init, len(counts), num_rows, num_columns, len(text), seconds, peak_rss_gib())


def _make_context_table(text: Tokens, num_words: int, num_rows: int, num_columns: int) -> None:
    length = min(len(text), CONTEXT_TOKENS) // NUM_LANES
    lanes = torch.from_numpy(np.array(text.read(0, length * NUM_LANES))).view(NUM_LANES, length)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, length - 1, BPTT):
            piece = lanes[:, start : start + BPTT + 1]
            yield piece[:, :-1], piece[:, 1:]

    with TemporaryDirectory() as folder:
        dist.init_process_group("gloo", f"file://{folder}/ranks", world_size=1, rank=0)
        assert dist.group.WORLD is not None
        context_table(
            batches,
            num_words,
            num_rows,
            num_columns,
            SEED,
            dist.group.WORLD,
            device=torch.device("cpu"),
            on_progress=_tell,
        )
        dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="benchmarks/warm_start.py", description=__doc__)
    parser.add_argument("--init", choices=("svd", "context"), default="svd", help="as table.init")
    parser.add_argument("--corpus", type=Path, help="corpus folder; without it a simulated text")
    parser.add_argument("--vocab-size", type=int, default=1_000_000, help="of a simulated text")
    parser.add_argument("--tokens", type=int, default=50_000_000, help="of a simulated text")
    parser.add_argument("--quick", action="store_true", help="a small simulated text")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.corpus, given.vocab_size, given.tokens = None, QUICK_VOCAB_SIZE, QUICK_TOKENS
    figures = in_own_process(measure, given.init, given.corpus, given.vocab_size, given.tokens)
    print(
        f"{figures.init}: {figures.vocab_size} words, {figures.tokens} tokens: "
        f"{figures.seconds:.1f} s, {figures.peak_rss_gib:.2f} GiB"
    )
    source = given.corpus.name if given.corpus else "simulated"
    result = {"benchmark": "warm_start", "text": source, **asdict(figures)}
    result |= {"seed": SEED, "machine": machine(), "versions": versions()}
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
