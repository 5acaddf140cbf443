"""The commands that make a corpus and tell of it; none of them needs torch."""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from data_shards import (
    EOS,
    KNOWN_CORPORA,
    Corpus,
    CorpusError,
    HoldOut,
    Manifest,
    Recipe,
    TextOptions,
    Workers,
    describe_corpus,
    download_corpus,
    local_workers,
    prepare_command,
    prepare_corpus,
    run_with_mpi,
    started_by_mpi,
    write_demo_corpus,
)

log = logging.getLogger("lightrnn")

AddParser = Callable[..., argparse.ArgumentParser]

DEFAULTS = Recipe()

_NAMES = ", ".join(KNOWN_CORPORA)


def add_corpus_commands(add_parser: AddParser) -> None:
    """Add `prepare`, `demo-corpus`, `download` and `describe` to the command line."""
    prepare = add_parser("prepare", help="text to corpus folder")
    prepare.set_defaults(command=_prepare)
    _add_input_options(prepare)
    _add_vocabulary_options(prepare)
    prepare.add_argument("--output", type=Path, required=True, help="corpus folder to make")
    prepare.add_argument(
        "--shard-tokens", type=int, default=DEFAULTS.shard_tokens, help="tokens a shard"
    )
    prepare.add_argument(
        "--workers", type=int, default=1, help="processes of this machine; under MPI its ranks"
    )
    prepare.add_argument(
        "--memory", type=float, default=DEFAULTS.memory_gib, help="GiB a worker takes at most"
    )

    demo = add_parser("demo-corpus", help="corpus from Python's own documentation")
    demo.set_defaults(command=_demo_corpus)
    demo.add_argument("--output", type=Path, required=True, help="corpus folder to make")
    demo.add_argument("--vocab-size", type=int, default=10_000, help="words to keep")

    download = add_parser("download", help="text of a known public corpus")
    download.set_defaults(command=_download)
    download.add_argument("corpus", choices=KNOWN_CORPORA, metavar="NAME", help=_NAMES)
    download.add_argument("--output", type=Path, required=True, help="folder for the text")
    download.add_argument("--mirror", metavar="URL", help="folder on a server that holds its files")
    download.add_argument("--keep-archive", action="store_true", help="keep it when it is unpacked")

    describe = add_parser("describe", help="sizes of a corpus, and what its vocabulary covers")
    describe.set_defaults(command=_describe)
    describe.add_argument("corpus", type=Path, metavar="CORPUS", help="corpus folder")
    describe.add_argument("--most-frequent", type=int, default=20, help="words to show")


def _add_input_options(prepare: argparse.ArgumentParser) -> None:
    for split in ("train", "valid", "test"):
        prepare.add_argument(
            f"--{split}",
            nargs="+",
            default=[],
            required=split == "train",
            metavar="INPUT",
            help=f"{split} text: files, folders, patterns, or - for standard input; plain text (a "
            "sentence a line), JSON lines, CSV, Parquet, Arrow, also compressed",
        )
    prepare.add_argument("--column", help="column or key that holds text, words, or ids")
    prepare.add_argument(
        "--hold-out",
        type=float,
        metavar="FRACTION",
        help="take this share of the training text for validation, and as much for test",
    )
    prepare.add_argument(
        "--hold-out-by",
        choices=("rows", "files"),
        default="rows",
        help="hold out stretches of rows, or whole files",
    )
    prepare.add_argument(
        "--tokenizer",
        choices=("whitespace", "word"),
        default=DEFAULTS.text.tokenizer,
        help="words stand between blanks, or are found in running text",
    )
    prepare.add_argument("--lowercase", action="store_true", help="turn the text to lower case")
    prepare.add_argument(
        "--normalize",
        choices=("none", "nfc"),
        default=DEFAULTS.text.normalize,
        help="Unicode normalisation",
    )
    prepare.add_argument(
        "--on-bad-bytes",
        choices=("error", "replace"),
        default=DEFAULTS.text.on_bad_bytes,
        help="what is done about bytes that are not UTF-8",
    )


def _add_vocabulary_options(prepare: argparse.ArgumentParser) -> None:
    prepare.add_argument("--vocab-size", type=int, help="words to keep, <eos> and <unk> included")
    prepare.add_argument("--min-count", type=int, default=1, help="fewest occurrences kept")
    prepare.add_argument(
        "--vocab",
        type=Path,
        metavar="FILE",
        help="words to use instead, in this order: a word a line, or a corpus's vocabulary.arrow",
    )
    prepare.add_argument(
        "--max-word-bytes",
        type=int,
        default=DEFAULTS.max_word_bytes,
        help="longer words become <unk>",
    )


def _prepare(options: argparse.Namespace) -> int:
    def build(workers: Workers) -> int:
        recipe = Recipe(
            TextOptions(
                tokenizer=options.tokenizer,
                lowercase=options.lowercase,
                normalize=options.normalize,
                on_bad_bytes=options.on_bad_bytes,
                column=options.column,
            ),
            vocab_size=options.vocab_size,
            min_count=options.min_count,
            vocabulary=options.vocab,
            max_word_bytes=options.max_word_bytes,
            hold_out=HoldOut(options.hold_out, options.hold_out_by) if options.hold_out else None,
            shard_tokens=options.shard_tokens,
            memory_gib=options.memory,
        )
        manifest = prepare_corpus(
            options.train,
            options.valid,
            options.test,
            options.output,
            recipe,
            workers=workers,
            on_progress=log.info,
        )
        _tell(manifest, options.output)
        return 0

    def build_or_tell(workers: Workers) -> int:
        try:
            return build(workers)
        except CorpusError as error:
            log.error("error: %s", error)
            return 2

    if started_by_mpi():
        return run_with_mpi(build_or_tell)
    try:
        with local_workers(options.workers) as workers:
            return build(workers)
    except KeyboardInterrupt:
        log.info("stopped; start again to go on with what is read already")
        raise


def _demo_corpus(options: argparse.Namespace) -> int:
    manifest = write_demo_corpus(
        options.output, vocab_size=options.vocab_size, on_progress=log.info
    )
    _tell(manifest, options.output)
    return 0


def _download(options: argparse.Namespace) -> int:
    corpus = KNOWN_CORPORA[options.corpus]
    download_corpus(
        corpus,
        options.output,
        mirror=options.mirror,
        keep_archive=options.keep_archive,
        on_progress=log.info,
    )
    sys.stdout.write(f"{prepare_command(corpus, options.output)}\n")
    return 0


def _tell(manifest: Manifest, output: Path) -> None:
    for name, split in manifest.splits.items():
        log.info(
            "%s: %d tokens with %s, %d lines, %.2f %% unknown",
            name,
            split.tokens,
            EOS,
            split.rows,
            100 * split.unknown_tokens / split.tokens,
        )
    if "valid" not in manifest.splits:
        log.info("no validation text, which training measures itself by: see --valid, --hold-out")
    log.info("%d words; corpus in %s", manifest.vocabulary.words, output)


def _describe(options: argparse.Namespace) -> int:
    for line in describe_corpus(Corpus.open(options.corpus), options.most_frequent):
        sys.stdout.write(f"{line}\n")
    return 0
