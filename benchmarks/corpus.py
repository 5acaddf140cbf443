"""How fast a corpus is made and read: by workers, beside Hugging Face `datasets`, with its memory.

    python benchmarks/corpus.py --text train.txt.gz more.txt --vocab-size 800000 --workers 1 2
    python benchmarks/corpus.py --distinct 20000000 --vocab-size 10240000 --workers 2
    python benchmarks/corpus.py --quick

Without `--text` the text is generated: words by Zipf's law, each of `--distinct` words at least
once. `datasets` gets the vocabulary ready made and only has to map and save. The loader reads what
was made, from page cache, in a process of its own; then a network is trained on it for some steps,
to see how long they wait for data. The last line of the output is JSON.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from benchmarks.measuring import GIB, in_own_process, machine, peak_rss_gib, versions
from benchmarks.training_runs import ROOT, train
from data_shards import Corpus, LaneBatches, Recipe, local_workers, prepare_corpus
from data_shards.manifest import MANIFEST_FILE
from data_shards.sources import TextOptions, plan_spans, read_pieces

QUICK_DISTINCT, QUICK_TOKENS = 20_000, 400_000
WORDS_PER_LINE, LINES_PER_BLOCK = 20, 50_000
LOADER_SECONDS = 3.0
NUM_MANY_SHARDS = 10_000
TRAINING_STEPS = 200
SEED = 1


@dataclass(frozen=True)
class Preparation:
    """What making a corpus took.

    Attributes:
        workers: processes.
        text_mb: UTF-8 text, decompressed, in units of 1e6 bytes.
        seconds, mb_per_s: from text to corpus folder, start of the workers included.
        worker_peak_gib, parent_peak_gib: most memory of any worker, and of the process they serve;
            with one worker both are the same process.
        fingerprint: of the corpus; equal for all numbers of workers.
    """

    workers: int
    text_mb: float
    seconds: float
    mb_per_s: float
    worker_peak_gib: float
    parent_peak_gib: float
    fingerprint: str
    tokens: int
    words: int


def write_text(path: Path, num_distinct: int, num_tokens: int) -> None:
    """Generate text: every word once, all others by Zipf's law, in random order."""
    random = np.random.default_rng(SEED)
    ends = np.cumsum(1 / np.arange(1, num_distinct + 1))
    block = WORDS_PER_LINE * LINES_PER_BLOCK
    once = random.permutation(num_distinct)
    num_blocks = -(-num_tokens // block)
    with path.open("w") as file:
        for number in range(num_blocks):
            own = once[number * len(once) // num_blocks : (number + 1) * len(once) // num_blocks]
            drawn = np.searchsorted(ends, random.random(max(0, block - len(own))) * ends[-1])
            words = [f"w{word:x}" for word in random.permutation(np.concatenate([own, drawn]))]
            for start in range(0, len(words), WORDS_PER_LINE):
                file.write(" ".join(words[start : start + WORDS_PER_LINE]) + "\n")


def prepare(
    files: Sequence[Path], output: Path, vocab_size: int | None, workers: int
) -> Preparation:
    """Make a corpus in this process, which had best be a fresh one."""
    began = time.perf_counter()
    with local_workers(workers) as pool:
        manifest = prepare_corpus(
            files, [], [], output, Recipe(vocab_size=vocab_size), workers=pool
        )
    seconds = time.perf_counter() - began
    parent = peak_rss_gib()
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIB
    text_mb = text_bytes(files) / 1e6
    return Preparation(
        workers=workers,
        text_mb=text_mb,
        seconds=seconds,
        mb_per_s=text_mb / seconds,
        worker_peak_gib=worker if workers > 1 else parent,
        parent_peak_gib=parent,
        fingerprint=manifest.fingerprint,
        tokens=manifest.splits["train"].tokens,
        words=manifest.vocabulary.words,
    )


def text_bytes(files: Sequence[Path]) -> int:
    """Return the length of text files, decompressed."""
    spans = plan_spans(files, "--text", TextOptions(), 1 << 26)
    return sum(
        len(piece.text) for span in spans for piece in read_pieces(span, TextOptions(), "--text")
    )


def prepare_with_datasets(files: Sequence[Path], corpus: Path, output: Path, workers: int) -> float:
    """Let `datasets` map text to the ids of a corpus's vocabulary and save; return the seconds."""
    import datasets

    datasets.disable_progress_bars()
    vocabulary = Corpus.open(corpus).vocabulary
    ids = {word: number for number, word in enumerate(vocabulary.words)}
    eos, unk = vocabulary.eos_id, vocabulary.unk_id

    def encode(lines: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {
            "input_ids": [
                [*(ids.get(word, unk) for word in line.split()), eos] for line in lines["text"]
            ]
        }

    began = time.perf_counter()
    text = datasets.load_dataset(
        "text",
        data_files=[str(file) for file in files],
        split="train",
        cache_dir=str(output / "cache"),
    )
    encoded = text.map(encode, batched=True, num_proc=workers, remove_columns=["text"])
    encoded.save_to_disk(str(output / "saved"), num_proc=workers)
    return time.perf_counter() - began


def loader_tokens_per_s(corpus: Path, num_lanes: int = 32, bptt: int = 35) -> float:
    """Return how many tokens a second the batches of a corpus give, epoch after epoch."""
    batches = LaneBatches(Corpus.open(corpus).split("train"), num_lanes, bptt, range(num_lanes))
    for step in range(batches.num_steps):  # into the page cache
        batches.batch(step)
    num_tokens, began = 0, time.perf_counter()
    while time.perf_counter() - began < LOADER_SECONDS:
        for step in range(batches.num_steps):
            num_tokens += batches.batch(step).targets.size
    return num_tokens / (time.perf_counter() - began)


def opening_seconds(corpus: Path, folder: Path) -> float:
    """Return how long it takes to open a corpus whose manifest names 10,000 shards."""
    manifest = Corpus.open(corpus).manifest
    split = manifest.splits["train"]
    many = replace(
        split,
        shards=NUM_MANY_SHARDS * split.shards[:1],
        tokens=NUM_MANY_SHARDS * split.shards[0].tokens,
        rows=NUM_MANY_SHARDS * split.shards[0].rows,
    )
    folder.mkdir()
    replace(manifest, splits={"train": many}).save(folder / MANIFEST_FILE)
    began = time.perf_counter()
    tokens = Corpus.open(folder).split("train")
    seconds = time.perf_counter() - began
    assert len(tokens) == many.tokens
    return seconds


def data_wait_share(corpus: Path, run_dir: Path) -> float:
    """Return the share of time that training steps wait for data, `configs/ptb.toml` but a random
    table; of the last steps of some hundred."""
    options = {
        "data.corpus": corpus,
        "table.init": "random",
        "allocation.when": "never",
        "train.max_steps": TRAINING_STEPS,
    }
    run = train(run_dir, ROOT / "configs" / "ptb.toml", options, may_stop=True)
    return float(run.last("train")["data_wait_share"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    given = _parse(arguments)
    preparations: list[Preparation] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        files = given.text or [folder / "generated.txt"]
        if not given.text:
            write_text(files[0], given.distinct, given.tokens)
        for workers in given.workers:
            output = folder / f"corpus-{workers}"
            preparations.append(in_own_process(prepare, files, output, given.vocab_size, workers))
            _tell(preparations[-1])
        rival_seconds = None
        if not given.no_rival:
            rival_seconds = in_own_process(
                prepare_with_datasets, files, output, folder, given.workers[-1]
            )
        loader = in_own_process(loader_tokens_per_s, output)
        opening = opening_seconds(output, folder / "many")
        waiting = data_wait_share(output, folder / "run")
    rates = {str(one.workers): one.mb_per_s for one in preparations}
    figures = {
        "benchmark": "corpus",
        "text": [file.name for file in given.text] if given.text else "generated",
        "prepare_mb_per_s": rates,
        "preparations": [asdict(one) for one in preparations],
        "datasets_mb_per_s": rival_seconds and preparations[-1].text_mb / rival_seconds,
        "datasets_workers": given.workers[-1],
        "loader_tokens_per_s": loader,
        "data_wait_share": waiting,
        "seconds_to_open_10000_shards": opening,
        "peak_rss_gib": max(max(one.worker_peak_gib, one.parent_peak_gib) for one in preparations),
        "machine": machine(),
        "versions": versions(),
    }
    if rival_seconds:
        print(
            f"datasets, {given.workers[-1]} workers, vocabulary given: "
            f"{figures['datasets_mb_per_s']:.1f} MB/s"
        )
    print(
        f"loader: {loader / 1e6:.1f} million tokens/s; training waits for data for "
        f"{100 * waiting:.2f} % of its time; {NUM_MANY_SHARDS} shards open in {opening:.2f} s"
    )
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/corpus.py", description=__doc__)
    parser.add_argument("--text", type=Path, nargs="+", help="text files; else text is generated")
    parser.add_argument("--distinct", type=int, default=1_000_000, help="words of generated text")
    parser.add_argument("--tokens", type=int, help="of generated text (default: 4 a word)")
    parser.add_argument("--vocab-size", type=int, help="words to keep")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--no-rival", action="store_true", help="leave `datasets` out")
    parser.add_argument("--folder", type=Path, help="where to work; else the temporary folder")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.text, given.distinct, given.tokens = None, QUICK_DISTINCT, QUICK_TOKENS
    given.tokens = given.tokens or 4 * given.distinct
    return given


def _tell(one: Preparation) -> None:
    print(
        f"{one.workers} workers: {one.text_mb:.1f} MB in {one.seconds:.1f} s, "
        f"{one.mb_per_s:.1f} MB/s, {one.worker_peak_gib:.2f} GiB a worker, "
        f"{one.parent_peak_gib:.2f} GiB beside them"
    )


if __name__ == "__main__":
    main()
