"""Perplexity of LightRNN by first table, beside rivals with vectors for every word.

    python benchmarks/quality.py --corpus corpora/ptb --preset ptb-small
    python benchmarks/quality.py --corpus corpora/ptb --config configs/ptb-small.toml \\
        --models own svd full tied --rival-dropout 0.4
    python benchmarks/quality.py --quick

All are trained by one recipe, that of the configuration: batches, steps, optimizer, rates and
clipping. LightRNN:

- `random`, `reallocated`: from a random table, never moved, or moved after epochs 0.5, 1 and 2;
- `svd`: from a table by the words' neighbours;
- `own`: the same with numbers of the words' own, as the configuration has them.

Rivals: `full`, `tied` (input vectors are output vectors), `adaptive` (PyTorch's), `classes` (two
softmaxes over classes of like frequency), each at the width of LightRNN's layers (`=width`), and as
wide as LightRNN's number of parameters lets it be (`=parameters`); `kneser-ney` counts 5-grams, and
is mixed with the last LightRNN, by the share that suits the validation text. The last line of the
output is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

if not __package__:  # started as a script: import the packages beside this folder, not its files
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch

from benchmarks.kneser_ney import FloatArray, KneserNey
from benchmarks.measuring import machine, versions
from benchmarks.quality_rivals import CLASSES, make_rival, train_rival, width_for
from benchmarks.training_runs import ROOT, run_cli, train, write_small_corpus
from data_shards import Corpus
from launcher.settings import load_settings
from lightrnn import perplexity_of

LIGHTRNN: dict[str, dict[str, object]] = {
    "random": {"table.init": "random", "model.word_size": 0, "allocation.when": "never"},
    "reallocated": {
        "table.init": "random",
        "model.word_size": 0,
        "allocation.when": "epochs",
        "allocation.epochs": "0.5,1,2",
        "allocation.moves": "all",
        "allocation.stay_bonus": 0,
        "allocation.max_tries": 0,
    },
    "svd": {"table.init": "svd", "model.word_size": 0, "allocation.when": "never"},
    "own": {"table.init": "svd"},
}
"""Options beside the configuration's, by name."""

RIVALS = "full", "tied", "adaptive", CLASSES
KNESER_NEY = "kneser-ney"
ORDER = 5
SHARES = tuple(number / 20 for number in range(1, 20))
"""Of LightRNN in a mixture with n-grams."""

PRESETS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.toml"))}
QUICK = {
    "model.embedding_size": 16,
    "model.hidden_size": 16,
    "model.word_size": 4,
    "train.epochs": 1,
}


@dataclass(frozen=True)
class Outcome:
    """What a model came to.

    Attributes:
        model: its name; for rivals with what they have in common with LightRNN.
        valid_perplexity, test_perplexity: at the end.
        parameters: trained numbers, or n-grams stored.
        width: of the recurrent layers; 0 for n-grams.
        seconds: of training; for LightRNN with validations and reallocations; 0 for mixtures.
    """

    model: str
    valid_perplexity: float
    test_perplexity: float
    parameters: int
    width: int
    seconds: float


def outcomes(given: argparse.Namespace, folder: Path) -> Iterator[Outcome]:
    """Yield the outcome of each model that was asked for, LightRNN's first."""
    options = dict(option.split("=", 1) for option in given.set)
    options["data.corpus"] = str(given.corpus)
    arguments = ["--config", str(given.config), "--run-dir", str(folder / "none")]
    for name, value in options.items():
        arguments += [f"--{name}", value]
    settings = load_settings(arguments)
    corpus = Corpus.open(given.corpus)
    budget = 0
    for name in (one for one in LIGHTRNN if one in given.models):
        run = train(folder / name, given.config, {**options, **LIGHTRNN[name]})
        end, parameters = run.last("end"), run.last("start")["num_parameters"]
        budget = max(budget, parameters)
        valid, test = end["valid_perplexity"], end["test_perplexity"]
        width = settings.model.hidden_size
        yield Outcome(name, valid, test, parameters, width, run.seconds)
    budget = given.parameters or budget
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dropout = settings.model.dropout if given.rival_dropout is None else given.rival_dropout
    num_words = len(corpus.vocabulary)
    for name in (one for one in RIVALS if one in given.models):
        widths = {"width": settings.model.hidden_size}
        if budget:
            widths["parameters"] = width_for(name, settings, num_words, budget)
        for equal, width in widths.items():
            torch.manual_seed(settings.train.seed)
            rival = make_rival(name, settings, num_words, width, dropout)
            trained = train_rival(rival, settings, corpus, device)
            yield Outcome(f"{name} ={equal}", **asdict(trained))
    if KNESER_NEY in given.models:
        ngrams, log_probabilities = kneser_ney(corpus)
        yield ngrams
        names = [one for one in LIGHTRNN if one in given.models]
        if names:
            valid, test = mixed(folder / names[-1], log_probabilities)
            yield Outcome(f"{names[-1]} + {KNESER_NEY}", valid, test, budget, 0, 0.0)


def mixed(run: Path, log_probabilities: Mapping[str, FloatArray]) -> tuple[float, float]:
    """Return the perplexities of a run mixed with n-grams, by the best share for validation."""
    both = {}
    for split, of_ngrams in log_probabilities.items():
        path = run / f"{split}.tsv"
        run_cli("evaluate", run, "--split", split, "--words", path)
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        of_network = np.array([float(line.split("\t")[1]) for line in lines])
        both[split] = np.stack([of_network, of_ngrams])

    def perplexity(split: str, share: float) -> float:
        log_shares = np.log([[share], [1 - share]])
        return perplexity_of(-float(np.logaddexp.reduce(both[split] + log_shares).mean()))

    best = min(SHARES, key=lambda share: perplexity("valid", share))
    return perplexity("valid", best), perplexity("test", best)


def kneser_ney(corpus: Corpus) -> tuple[Outcome, dict[str, FloatArray]]:
    """Return what the counts of 5-grams come to, and log P of each word by split."""
    began = time.perf_counter()
    texts = {}
    for split in ("train", "valid", "test"):
        tokens = corpus.split(split)
        texts[split] = np.asarray(tokens.read(0, len(tokens)), dtype=np.int64)
    vocabulary = corpus.vocabulary
    model = KneserNey(texts["train"], len(vocabulary), ORDER, vocabulary.eos_id)
    seconds = time.perf_counter() - began
    found = {split: model.log_probabilities(texts[split]) for split in ("valid", "test")}
    valid, test = (perplexity_of(-float(one.mean())) for one in found.values())
    return Outcome(KNESER_NEY, valid, test, model.num_ngrams, 0, seconds), found


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare as the command line says."""
    given = _parse(arguments)
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.quick:
            given.corpus = folder / "corpus"
            write_small_corpus(given.corpus)
        for outcome in outcomes(given, folder):
            found.append(outcome)
            print(f"{outcome.model}: {outcome.test_perplexity:.2f}", file=sys.stderr)
    figures = {
        "benchmark": "quality",
        "corpus": "small" if given.quick else given.corpus.name,
        "config": given.config.name,
        "set": list(given.set),
        "rival_dropout": given.rival_dropout,
        "outcomes": [asdict(outcome) for outcome in found],
        "machine": machine(),
        "versions": versions(),
    }
    if given.output:
        given.output.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"{'model':24} {'valid':>8} {'test':>8} {'parameters':>11} {'width':>6} {'seconds':>8}")
    for one in found:
        print(
            f"{one.model:24} {one.valid_perplexity:8.2f} {one.test_perplexity:8.2f} "
            f"{one.parameters:11} {one.width:6} {one.seconds:8.0f}"
        )
    print(json.dumps(figures))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    everything = [*LIGHTRNN, *RIVALS, KNESER_NEY]
    parser = argparse.ArgumentParser(
        prog="benchmarks/quality.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--corpus", type=Path, help="corpus folder with all three splits")
    parser.add_argument("--preset", choices=list(PRESETS), help="a configuration by its name")
    parser.add_argument("--config", type=Path, help="a configuration by its file")
    parser.add_argument("--models", nargs="*", choices=everything, default=everything)
    parser.add_argument(
        "--parameters", type=int, default=0, help="that rivals may have; LightRNN's without it"
    )
    parser.add_argument(
        "--rival-dropout", type=float, help="for rivals, where it is not the configuration's"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="a small size")
    parser.add_argument("--output", type=Path, help="file for the JSON, besides the last line")
    given = parser.parse_args(arguments)
    if given.quick:
        given.set = [*given.set, *(f"{name}={value}" for name, value in QUICK.items())]
        given.config = given.config or PRESETS["ptb"]
    elif given.corpus is None:
        parser.error("give --corpus, or --quick")
    given.config = given.config or PRESETS.get(given.preset or "")
    if given.config is None:
        parser.error(f"give --config, or --preset, one of {', '.join(PRESETS)}")
    return given


if __name__ == "__main__":
    main()
