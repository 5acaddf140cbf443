"""Using a trained run: perplexity of a split, and generated text."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from data_shards import (
    EOS,
    Batches,
    Corpus,
    CorpusError,
    TextOptions,
    Tokenization,
    Vocabulary,
    words_of,
)
from launcher.batches import evaluation_batches
from launcher.checkpoints import choose_checkpoint, load_model, load_vocabulary, verify_checkpoint
from launcher.evaluation import Autocast, evaluate
from launcher.optimization import autocast_for
from launcher.processes import Processes
from launcher.run_dir import RunDirectory
from launcher.settings import Settings, read_settings
from launcher.setup import make_model
from lightrnn import LightRNN, Losses, WordTable, sample_words


@dataclass(frozen=True)
class TrainedRun:
    """A model as a checkpoint holds it, in evaluation mode, with all that goes with it."""

    settings: Settings
    vocabulary: Vocabulary
    text: TextOptions
    corpus_fingerprint: str
    model: LightRNN
    table: WordTable


def load_run(run: RunDirectory, which: str, processes: Processes) -> TrainedRun:
    """Load a checkpoint of a run.

    Args:
        run: the run directory.
        which: `latest`, `best` by validation, or a checkpoint's name.
        processes: gives the device.

    Raises:
        LightRNNError, CorpusError: there is no such checkpoint, or a file is damaged.
    """
    checkpoint = choose_checkpoint(run, which)
    settings = read_settings(run.config)
    meta = verify_checkpoint(checkpoint)
    vocabulary = load_vocabulary(run, meta)
    num_rows, num_columns = meta.table_shape
    model = make_model(settings.model, len(vocabulary), num_rows, num_columns)
    table = load_model(checkpoint, meta, model)
    model = model.to(processes.device).eval()
    text = Tokenization(**meta.loader["tokenization"]).options
    return TrainedRun(settings, vocabulary, text, meta.loader["corpus_fingerprint"], model, table)


def evaluate_run(trained: TrainedRun, corpus_path: str, split: str, processes: Processes) -> Losses:
    """Return the losses of a split of the run's corpus; arguments and errors as of `split_of`."""
    batches, autocast = split_of(trained, corpus_path, split, processes)
    return evaluate(trained.model, batches, processes, autocast)


def split_of(
    trained: TrainedRun, corpus_path: str, split: str, processes: Processes
) -> tuple[Batches, Autocast]:
    """Return this rank's batches of a split of the run's corpus, and what they run under.

    Args:
        trained: the run.
        corpus_path: where the corpus lies now; empty for where it lay in training.
        split: train, valid or test.
        processes: who evaluates.

    Raises:
        CorpusError: there is no such split, or it is another corpus.
    """
    settings = trained.settings
    corpus = Corpus.open(Path(corpus_path or settings.data.corpus))
    if corpus.fingerprint != trained.corpus_fingerprint:
        raise CorpusError(
            f"the run was trained on the corpus {trained.corpus_fingerprint[:12]}, found "
            f"{corpus.fingerprint[:12]} in {corpus.path}; give its own by --corpus"
        )
    batches = evaluation_batches(corpus, split, settings, processes.rank, processes.world_size)
    corpus.verify_shards(corpus.manifest.splits[split].shards if settings.data.verify else ())
    return batches, autocast_for(settings.train, processes.device)


def generate(
    trained: TrainedRun, prompt: str, num_words: int, *, seed: int, temperature: float
) -> Iterator[str]:
    """Yield words that go on from `prompt`; the unknown word is never drawn.

    Words of the prompt that the vocabulary does not have are read as the unknown word; an empty
    prompt begins a sentence.

    Raises:
        ModelError: a temperature that is not above 0.
    """
    vocabulary = trained.vocabulary
    ids = vocabulary.encode(words_of(prompt, trained.text) or [EOS]).tolist()
    drawn = sample_words(
        trained.model,
        trained.table,
        ids,
        seed=seed,
        temperature=temperature,
        excluded=[vocabulary.unk_id],
    )
    return (vocabulary.words[word] for word in islice(drawn, num_words))
