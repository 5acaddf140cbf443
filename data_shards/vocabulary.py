"""The vocabulary: the words a model knows, most frequent first. Legend: V words."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_shards.errors import CorpusError
from data_shards.files import arrow_file

EOS = "<eos>"
"""The entry that ends every line."""

UNK = "<unk>"
"""The entry that stands for every word not in the vocabulary."""

SMALLEST_VOCABULARY = 3
WORDS_PER_BLOCK = 1 << 16

SCHEMA = pa.schema([("word", pa.string()), ("count", pa.int64())])


class WordList(Sequence[str]):
    """Words of an Arrow array, read one by one as `str`: 10 million of them take few bytes.

    Args:
        words: string [V], without empty entries.
    """

    def __init__(self, words: pa.StringArray) -> None:
        self.array = words

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        found: str | list[str] = (
            self.array[place].to_pylist() if isinstance(place, slice) else self.array[place].as_py()
        )
        return found

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), WORDS_PER_BLOCK):
            yield from self[start : start + WORDS_PER_BLOCK]

    def index_of(self, word: str) -> int:
        """Return the place of a word, -1 where it is missing."""
        place: int = pc.index(self.array, pa.scalar(word, pa.string())).as_py()
        return place


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and how often each occurs in the training text; a word's id is its place.

    Attributes:
        words: the V different words, `<eos>` and `<unk>` among them. In an Arrow array, as counting
            makes it and a checked file holds it, they are taken to be different: to look takes a
            multiple of its memory.
        counts: how often each occurs, int64 [V], not writable.

    Raises:
        CorpusError: a word occurs twice, `<eos>` or `<unk>` is missing, or a count is negative.
    """

    words: WordList
    counts: npt.NDArray[np.int64]

    def __init__(self, words: pa.StringArray | Sequence[str], counts: npt.ArrayLike) -> None:
        is_checked = isinstance(words, pa.Array)
        word_list = WordList(words if is_checked else pa.array(words, pa.string()))
        counts = np.array(counts, dtype=np.int64, copy=True)
        if counts.shape != (len(word_list),):
            raise CorpusError(
                f"a vocabulary of {len(word_list)} words has counts of shape {counts.shape}, "
                "expected one count a word"
            )
        if len(word_list) and counts.min() < 0:
            word = int(counts.argmin())
            raise CorpusError(f"word {word} has the count {counts[word]}, expected 0 or more")
        num_different = len(word_list) if is_checked else len(set(words))
        if num_different < len(word_list):
            raise CorpusError(
                f"a vocabulary of {len(word_list)} words has {num_different} different ones, "
                "expected each word once"
            )
        missing = [entry for entry in (EOS, UNK) if word_list.index_of(entry) < 0]
        if missing:
            raise CorpusError(f"the vocabulary lacks {' and '.join(missing)}, expected both")
        counts.setflags(write=False)
        object.__setattr__(self, "words", word_list)
        object.__setattr__(self, "counts", counts)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def eos_id(self) -> int:
        """Id of `<eos>`."""
        return self.words.index_of(EOS)

    @cached_property
    def unk_id(self) -> int:
        """Id of `<unk>`."""
        return self.words.index_of(UNK)

    def encode(self, words: Sequence[str]) -> npt.NDArray[np.int32]:
        """Return the words' ids, int32; `unk_id` for those the vocabulary does not have."""
        return ids_of_words(pa.array(words, pa.string()), self.words.array, self.unk_id)

    def save(self, path: Path) -> str:
        """Write an Arrow IPC file, `word` and `count` in id order, and return its SHA-256."""
        columns = [self.words.array, pa.array(self.counts)]
        with arrow_file(path, SCHEMA) as (file, writer):
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        return file.sha256

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            CorpusError: the file is missing, damaged, or not a vocabulary.
        """
        try:
            with pa.OSFile(str(path), "rb") as source:
                content = pa.ipc.open_file(source).read_all()
                content.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(
                f"{path} cannot be read ({error}), expected a vocabulary; prepare the corpus again"
            ) from error
        if not content.schema.equals(SCHEMA) or any(column.null_count for column in content):
            described = ", ".join(f"{field.name}: {field.type}" for field in content.schema)
            raise CorpusError(
                f"{path} has the columns {described}, expected word: string, count: int64 "
                "without empty cells; prepare the corpus again"
            )
        words, counts = (content[name].combine_chunks() for name in SCHEMA.names)
        return cls(words, counts.to_numpy())


def ids_of_words(words: pa.Array, vocabulary: pa.Array, unk_id: int) -> npt.NDArray[np.int32]:
    """Return the places of words in a vocabulary of the same type, int32; `unk_id` for others."""
    places = pc.fill_null(pc.index_in(words, value_set=vocabulary), unk_id)
    ids: npt.NDArray[np.int32] = places.to_numpy()
    return ids


def read_word_list(path: Path) -> pa.BinaryArray:
    """Read words to use as a vocabulary, in their order: a word a line, or a corpus's vocabulary.

    Args:
        path: `.arrow` as a corpus has it, else text with a word a line; what follows a blank, as a
            count, is left out.

    Raises:
        CorpusError: the file cannot be read, or is empty, or a word occurs twice.
    """
    if path.suffix == ".arrow":
        return Vocabulary.load(path).words.array.cast(pa.binary())
    try:
        lines = path.read_bytes().splitlines()
        words = [line.split()[0].decode() for line in lines if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{path} cannot be read ({error}), expected UTF-8 with a word a line; change --vocab"
        ) from error
    if not words:
        raise CorpusError(f"{path} has no words, expected a word a line; change --vocab")
    if len(set(words)) < len(words):
        twice = next(word for word, count in Counter(words).items() if count > 1)
        raise CorpusError(
            f"{path} has the word {twice!r} twice, expected each once; change --vocab"
        )
    return pa.array(words, pa.string()).cast(pa.binary())


def check_cut(vocab_size: int | None, min_count: int) -> None:
    """Raise `CorpusError` where no vocabulary can be cut by these settings."""
    if vocab_size is not None and vocab_size < SMALLEST_VOCABULARY:
        raise CorpusError(
            f"vocab_size={vocab_size}, expected at least {SMALLEST_VOCABULARY} "
            f"({EOS}, {UNK} and a word); raise --vocab-size"
        )
    if min_count < 1:
        raise CorpusError(f"min_count={min_count}, expected at least 1; raise --min-count")


def unigram_perplexity(train_counts: npt.ArrayLike, split_counts: npt.ArrayLike) -> float:
    """Return the perplexity of the add-one-smoothed unigram distribution: the bar to be under.

    Args:
        train_counts: how often each word occurs in the training split, [V].
        split_counts: how often each occurs in the split that is measured, [V].

    Raises:
        CorpusError: the shapes differ, or the split is empty.
    """
    train, split = (np.asarray(counts, np.float64) for counts in (train_counts, split_counts))
    if train.shape != split.shape or not split.sum():
        raise CorpusError(
            f"counts of shape {train.shape} and {split.shape} with {split.sum():.0f} tokens, "
            "expected two counts a word and at least one token"
        )
    log_probability = np.log(train + 1) - np.log(train.sum() + len(train))
    return float(np.exp(-(split @ log_probability) / split.sum()))
