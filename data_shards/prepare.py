"""Text to corpus: count the words, cut the vocabulary, encode the lines into shards."""

import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from data_shards.errors import CorpusError
from data_shards.files import sync_folder
from data_shards.manifest import (
    MANIFEST_FILE,
    VOCABULARY_FILE,
    Manifest,
    Split,
    Tokenization,
    VocabularyFile,
)
from data_shards.shards import Encoded, write_shards
from data_shards.sources import plan_spans, read_pieces
from data_shards.text import parse_piece
from data_shards.vocabulary import EOS, Vocabulary, check_cut
from data_shards.words import TextOptions

SHARD_TOKENS = 2**24
SPAN_BYTES = 2**26
PROGRESS_TOKENS = 2**25

Report = Callable[[str], None]


def prepare_corpus(
    train: Sequence[Path],
    valid: Sequence[Path],
    test: Sequence[Path],
    output: Path,
    *,
    vocab_size: int | None = None,
    min_count: int = 1,
    lowercase: bool = False,
    shard_tokens: int = SHARD_TOKENS,
    on_progress: Report | None = None,
) -> Manifest:
    """Write a corpus folder: manifest, vocabulary of the training text, shards of each split.

    Every line becomes the ids of its words and `<eos>`, an empty line `<eos>` alone. The folder
    appears under its name when it is whole and on the disk, not before; the same text and settings
    give the same bytes. Memory is bounded but for the count of every different word.

    Args:
        train: text files, plain or `.gz`, `.zst`, `.bz2`, read one after another.
        valid: the same for validation; where there are none, the split is absent.
        test: the same for testing.
        output: the corpus folder to write; it must not exist or be empty.
        vocab_size: number of entries at most, `<eos>` and `<unk>` included; None keeps every word.
        min_count: words that occur less often become `<unk>`.
        lowercase: whether to lower-case the text.
        shard_tokens: wanted number of tokens a shard.
        on_progress: called with a line of text now and then.

    Returns:
        The manifest of the new corpus.

    Raises:
        CorpusError: a setting or a text cannot be used, or the output exists or cannot be written.
    """
    files = {"train": train, "valid": valid, "test": test}
    report = on_progress or (lambda message: None)
    check_cut(vocab_size, min_count)
    if shard_tokens < 1:
        raise CorpusError(f"shard_tokens={shard_tokens}, expected at least 1; raise --shard-tokens")
    if not train:
        raise CorpusError("no training text was given, expected a file or more; pass --train")
    with new_folder(output) as folder:
        counts = count_words(train, lowercase, report)
        vocabulary = Vocabulary.from_counts(counts, vocab_size, min_count)
        del counts
        sha256 = vocabulary.save(folder / VOCABULARY_FILE)
        report(f"vocabulary: {len(vocabulary):,} words")
        encoder = LineEncoder(vocabulary, lowercase)
        manifest = Manifest(
            Tokenization(lowercase=lowercase),
            VocabularyFile(
                VOCABULARY_FILE, len(vocabulary), vocabulary.eos_id, vocabulary.unk_id, sha256
            ),
            {
                name: write_split(name, paths, encoder, folder, shard_tokens, report)
                for name, paths in files.items()
                if paths
            },
        )
        check_unchanged(manifest.splits["train"], vocabulary)
        manifest.save(folder / MANIFEST_FILE)
    return manifest


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside `output` that takes its name if the block succeeds.

    Raises:
        CorpusError: `output` exists and is not an empty folder, or cannot be written.
    """
    output = output.resolve()
    folder = output.parent / f".{output.name}.partial-{secrets.token_hex(4)}"
    try:
        check_absent(output)
        folder.mkdir(parents=True)
        try:
            yield folder
            sync_folder(folder)
            check_absent(output)
            folder.rename(output)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        sync_folder(output.parent)
    except OSError as error:
        raise CorpusError(
            f"{output} cannot be written ({error}), expected a place with room for a new folder; "
            "change --output"
        ) from error


def check_absent(output: Path) -> None:
    """Raise `CorpusError` unless `output` does not exist or is an empty folder."""
    if output.is_dir():
        if any(output.iterdir()):
            raise CorpusError(
                f"{output} exists and is not empty, expected a new folder; change --output"
            )
    elif output.exists():
        raise CorpusError(f"{output} is a file, expected a new folder; change --output")


def count_words(paths: Iterable[Path], lowercase: bool, report: Report) -> dict[bytes, int]:
    """Count every word of the training text, and `<eos>` once a line."""
    count_of_word: dict[bytes, int] = {EOS.encode(): 0}
    num_tokens = reported_tokens = 0
    options = TextOptions(lowercase=lowercase)
    for span in plan_spans(list(paths), "--train", options, SPAN_BYTES):
        for piece in read_pieces(span, options, "--train"):
            parsed = parse_piece(piece.text)
            counts = np.bincount(parsed.word_of_token, minlength=len(parsed.words))
            for word, count in zip(parsed.words, counts.tolist(), strict=True):
                count_of_word[word] = count_of_word.get(word, 0) + count
            count_of_word[EOS.encode()] += len(parsed.line_ends)
            num_tokens += len(parsed.word_of_token) + len(parsed.line_ends)
            if num_tokens - reported_tokens >= PROGRESS_TOKENS:
                report(f"counting: {num_tokens:,} tokens, {len(count_of_word):,} words")
                reported_tokens = num_tokens
    report(f"counted: {num_tokens:,} tokens, {len(count_of_word):,} words")
    return count_of_word


def write_split(
    name: str,
    paths: Sequence[Path],
    encoder: "LineEncoder",
    folder: Path,
    shard_tokens: int,
    report: Report,
) -> Split:
    """Encode the text of one split and write its shards."""
    (folder / name).mkdir()
    num_unknown = encoder.num_unknown
    shards = []
    num_tokens = 0
    encoded = encoder.encode_files(paths, option=f"--{name}")
    for shard in write_shards(encoded, folder / name, folder, shard_tokens):
        shards.append(shard)
        num_tokens += shard.tokens
        report(f"wrote {shard.file}: {num_tokens:,} tokens of {name} so far")
    return Split(
        tokens=num_tokens,
        rows=sum(shard.rows for shard in shards),
        unknown_tokens=encoder.num_unknown - num_unknown,
        shards=tuple(shards),
    )


def check_unchanged(train: Split, vocabulary: Vocabulary) -> None:
    """Raise `CorpusError` where the text encoded is not the text counted."""
    found = (train.tokens, train.unknown_tokens)
    expected = (int(vocabulary.counts.sum()), int(vocabulary.counts[vocabulary.unk_id]))
    if found != expected:
        raise CorpusError(
            f"the training text changed while it was read: {found[0]} tokens with {found[1]} "
            f"unknown, expected the {expected[0]} with {expected[1]} counted before; give --train "
            "files that nobody writes to"
        )


class LineEncoder:
    """Encodes text by a vocabulary, and counts the words it does not know."""

    def __init__(self, vocabulary: Vocabulary, lowercase: bool) -> None:
        self._id_of_word = {word.encode(): index for index, word in enumerate(vocabulary.words)}
        self._eos_id = vocabulary.eos_id
        self._unk_id = vocabulary.unk_id
        self._lowercase = lowercase
        self.num_unknown = 0

    def encode_files(self, paths: Iterable[Path], option: str) -> Iterator[Encoded]:
        """Yield the tokens of the files' lines and where the lines end."""
        options = TextOptions(lowercase=self._lowercase)
        for span in plan_spans(list(paths), option, options, SPAN_BYTES):
            for piece in read_pieces(span, options, option):
                yield self.encode_piece(piece.text)

    def encode_piece(self, piece: bytes) -> Encoded:
        """Encode one piece of text: an id a word, `<eos>` where a line ends."""
        parsed = parse_piece(piece)
        look_up = self._id_of_word.get
        id_of_place = np.fromiter(
            (look_up(word, self._unk_id) for word in parsed.words), np.int32, len(parsed.words)
        )
        num_lines = len(parsed.line_ends)
        eos_places = parsed.line_ends + np.arange(num_lines)
        ids = np.empty(len(parsed.word_of_token) + num_lines, dtype=np.int32)
        is_word = np.ones(len(ids), dtype=np.bool_)
        is_word[eos_places] = False
        ids[eos_places] = self._eos_id
        ids[is_word] = id_of_place[parsed.word_of_token]
        self.num_unknown += int(np.count_nonzero(ids == self._unk_id))
        return ids, eos_places + 1
