"""Text to corpus, in three steps that workers share out and that can be interrupted.

1. `read_blocks`: every span of the input becomes blocks, rows of tokens by the block's own words.
2. `count_words`: the words of all training blocks are merged, and the vocabulary is cut.
3. `encode_blocks`: every block becomes a shard of word ids.

What comes out does not depend on the workers: neither spans nor blocks do.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_shards.counting import count_words
from data_shards.encoding import encode_blocks
from data_shards.errors import CorpusError
from data_shards.hold_out import files_by_split
from data_shards.manifest import MANIFEST_FILE, Manifest
from data_shards.pool import Report, Workers
from data_shards.reading import read_blocks
from data_shards.recipe import Recipe
from data_shards.sources import STANDARD_INPUT, Source, Span, plan_spans
from data_shards.vocabulary import read_word_list
from data_shards.work_folder import check_absent, work_folder

BYTES_A_TOKEN_OF_SPAN, LEAST_SPAN_BYTES = 4, 1 << 20
"""A span of text has so many bytes a token of a shard, so that it makes about one shard."""


def prepare_corpus(
    train: Sequence[Source],
    valid: Sequence[Source],
    test: Sequence[Source],
    output: Path,
    recipe: Recipe | None = None,
    *,
    workers: Workers | None = None,
    on_progress: Report = lambda line: None,
) -> Manifest:
    """Write a corpus folder: manifest, vocabulary of the training text, shards of each split.

    Every line becomes the ids of its words and `<eos>`, an empty line `<eos>` alone. The folder
    appears under its name when it is whole and on the disk, not before; the same text and settings
    give the same bytes. A build that was interrupted goes on when it is started again.

    Args:
        train: files, folders, patterns, `-` or `datasets`, see `data_shards.sources`, read one
            after another.
        valid: the same for validation; where there are none, the split is absent.
        test: the same for testing.
        output: the corpus folder to write; it must not exist or be empty.
        recipe: how.
        workers: who does it, on a file system that they share; without any this process.
        on_progress: called with a line of text now and then.

    Returns:
        The manifest of the new corpus.

    Raises:
        CorpusError: a setting or a text cannot be used, or the output exists or cannot be written.
    """
    recipe, workers = recipe or Recipe(), workers or Workers()
    recipe.check()
    if not train:
        raise CorpusError("no training text was given, expected a file or more; pass --train")
    if recipe.hold_out and (valid or test):
        raise CorpusError(
            "found --hold-out beside --valid or --test, expected one or the other; leave one out"
        )
    given_words = read_word_list(recipe.vocabulary) if recipe.vocabulary else None
    inputs = {"train": train, "valid": valid, "test": test}
    with (
        _spool(inputs, output) as spool,
        work_folder(output, _identity(recipe, spans := _plan(inputs, recipe, spool))) as started,
    ):
        folder, goes_on = started
        if goes_on:
            on_progress("going on with an earlier build of the same text and settings")
        blocks = read_blocks(spans, recipe, folder, workers, on_progress)
        vocabulary = count_words(blocks, recipe, given_words, folder, workers, on_progress)
        manifest = encode_blocks(blocks, vocabulary, recipe, folder, workers, on_progress)
        manifest.save(folder.corpus / MANIFEST_FILE)
    return manifest


def _plan(
    inputs: Mapping[str, Sequence[Source]], recipe: Recipe, spool: Path | None
) -> dict[str, list[Span]]:
    """Cut the inputs of each split into spans; leave out splits without any."""

    def spans_of(name: str, sources: Sequence[Source]) -> list[Span]:
        span_bytes = max(BYTES_A_TOKEN_OF_SPAN * recipe.shard_tokens, LEAST_SPAN_BYTES)
        return plan_spans(sources, f"--{name}", recipe.text, span_bytes, spool)

    spans = {name: spans_of(name, sources) for name, sources in inputs.items() if sources}
    if recipe.hold_out and recipe.hold_out.by == "files":
        files = files_by_split(recipe.hold_out, spans["train"])
        spans = {name: spans_of(name, own) for name, own in files.items()}
    return spans


def _identity(recipe: Recipe, spans: Mapping[str, Sequence[Span]]) -> dict[str, Any]:
    """Return all that decides what is built, as JSON."""
    return {
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
        "spans": {name: [span.identity for span in own] for name, own in spans.items()},
    }


@contextmanager
def _spool(inputs: Mapping[str, Sequence[Source]], output: Path) -> Iterator[Path | None]:
    """Give a folder for what comes by standard input, where something does."""
    if not any(source == STANDARD_INPUT for sources in inputs.values() for source in sources):
        yield None
        return
    check_absent(output)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        yield Path(folder)
