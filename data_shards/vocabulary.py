"""The vocabulary: the words a model knows, most frequent first. Legend: V words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_shards.errors import CorpusError
from data_shards.files import arrow_file

EOS = "<eos>"
"""The entry that ends every line."""

UNK = "<unk>"
"""The entry that stands for every word not in the vocabulary."""

SMALLEST_VOCABULARY = 3

SCHEMA = pa.schema([("word", pa.string()), ("count", pa.int64())])


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words and how often each occurs in the training text; a word's id is its place.

    Attributes:
        words: the V different words, `<eos>` and `<unk>` among them.
        counts: how often each occurs, int64 [V], not writable.

    Raises:
        CorpusError: a word occurs twice, `<eos>` or `<unk>` is missing, or a count is negative.
    """

    words: tuple[str, ...]
    counts: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        words = tuple(self.words)
        counts = np.array(self.counts, dtype=np.int64, copy=True)
        if counts.shape != (len(words),):
            raise CorpusError(
                f"a vocabulary of {len(words)} words has counts of shape {counts.shape}, "
                "expected one count a word"
            )
        if len(words) and counts.min() < 0:
            word = int(counts.argmin())
            raise CorpusError(f"word {word} has the count {counts[word]}, expected 0 or more")
        different = set(words)
        if len(different) < len(words):
            raise CorpusError(
                f"a vocabulary of {len(words)} words has {len(different)} different ones, "
                "expected each word once"
            )
        missing = [entry for entry in (EOS, UNK) if entry not in different]
        if missing:
            raise CorpusError(f"the vocabulary lacks {' and '.join(missing)}, expected both")
        counts.setflags(write=False)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "counts", counts)

    @classmethod
    def from_counts(
        cls, count_of_word: Mapping[bytes, int], vocab_size: int | None = None, min_count: int = 1
    ) -> "Vocabulary":
        """Cut the most frequent words and put them in order.

        `<eos>` and `<unk>` are always entries and count towards `vocab_size`. Words rank by count,
        the highest first, and by their UTF-8 bytes where counts are equal. The occurrences of the
        words cut are added to those of `<unk>`.

        Args:
            count_of_word: how often each word occurs, words as UTF-8.
            vocab_size: V at most; None keeps every word.
            min_count: words that occur less often are cut.

        Raises:
            CorpusError: `vocab_size` is below 3 or `min_count` below 1.
        """
        check_cut(vocab_size, min_count)
        reserved = (EOS.encode(), UNK.encode())
        counts = np.fromiter(
            (n for word, n in count_of_word.items() if word not in reserved), dtype=np.int64
        )
        num_kept = int(np.count_nonzero(counts >= min_count))
        least = min_count
        if vocab_size is not None and num_kept > vocab_size - len(reserved):
            num_kept = vocab_size - len(reserved)
            least = int(np.partition(counts, -num_kept)[-num_kept])
        candidates = [
            (word, n) for word, n in count_of_word.items() if n >= least and word not in reserved
        ]
        kept = dict(sorted(candidates, key=rank_of_entry)[:num_kept])
        num_eos, num_unk = (count_of_word.get(entry, 0) for entry in reserved)
        num_cut = int(counts.sum()) - sum(kept.values())
        kept |= dict(zip(reserved, (num_eos, num_unk + num_cut), strict=True))
        entries = sorted(kept.items(), key=rank_of_entry)
        return cls(
            tuple(word.decode() for word, _ in entries),
            np.array([n for _, n in entries], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def id_of_word(self) -> dict[str, int]:
        """Id of each word."""
        return {word: index for index, word in enumerate(self.words)}

    @cached_property
    def eos_id(self) -> int:
        """Id of `<eos>`."""
        return self.words.index(EOS)

    @cached_property
    def unk_id(self) -> int:
        """Id of `<unk>`."""
        return self.words.index(UNK)

    def encode(self, words: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the words' ids, int32; `unk_id` for those the vocabulary does not have."""
        ids = self.id_of_word
        return np.array([ids.get(word, self.unk_id) for word in words], dtype=np.int32)

    def save(self, path: Path) -> str:
        """Write an Arrow IPC file, `word` and `count` in id order, and return its SHA-256."""
        columns = [pa.array(self.words, pa.string()), pa.array(self.counts)]
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
        return cls(tuple(content["word"].to_pylist()), content["count"].to_numpy())


def rank_of_entry(entry: tuple[bytes, int]) -> tuple[int, bytes]:
    """Sorting key: the highest count first, then the bytes of the word."""
    word, count = entry
    return -count, word


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
