"""Reading a corpus folder: its manifest, its vocabulary, and each split as one long sequence.

Legend: N tokens of a split, V words.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_shards.errors import CorpusError
from data_shards.files import sha256_of
from data_shards.manifest import MANIFEST_FILE, Manifest, Shard, VocabularyFile
from data_shards.pool import Report, Workers
from data_shards.shards import SCHEMA, Ids
from data_shards.vocabulary import Vocabulary

BEFORE_FIRST = -1
"""The position before the first token; it reads as `<eos>`."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus folder.

    Attributes:
        path: the folder.
        manifest: what it holds.
        copies: by a shard's file, the folder of the copy that is read in its place.
    """

    path: Path
    manifest: Manifest
    copies: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "Corpus":
        """Open a corpus folder by its manifest; vocabulary and shards are read when used.

        Raises:
            CorpusError: there is no folder, no manifest, or none that can be used.
        """
        path = Path(path)
        try:
            found = None if (path / MANIFEST_FILE).is_file() else "has no manifest.json"
            found = found if path.is_dir() else "is not a folder"
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
        if found:
            raise CorpusError(
                f"{path} {found}, expected a corpus made by `lightrnn prepare`; change data.corpus"
            )
        return cls(path, Manifest.load(path / MANIFEST_FILE))

    @property
    def fingerprint(self) -> str:
        """The manifest's fingerprint: equal for equal corpora only."""
        return self.manifest.fingerprint

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary.

        Raises:
            CorpusError: its file is missing, damaged, or another one than the manifest says.
        """
        return load_vocabulary(self.path, self.manifest.vocabulary)

    def split(self, name: str) -> "TokenSequence":
        """Return the tokens of a split.

        Raises:
            CorpusError: there is no split of this name.
        """
        split = self.manifest.splits.get(name)
        if split is None:
            raise CorpusError(
                f"{self.path} has no split {name!r}, expected one of "
                f"{', '.join(self.manifest.splits)}; change the split or prepare the corpus with it"
            )
        vocabulary = self.manifest.vocabulary
        return TokenSequence(
            self.path, name, split.shards, vocabulary.words, vocabulary.eos_id, self.copies
        )

    def with_copies(self, folder: Path, shards: Iterable[Shard]) -> "Corpus":
        """Return the corpus that reads some shards from `folder`, and all others where they were.

        Raises:
            CorpusError: a copy is missing, or not as long as it should be.
        """
        copies = dict(self.copies)
        for shard in shards:
            check_file(folder, shard)
            copies[shard.file] = folder
        return replace(self, copies=copies)

    def verify_shards(self, shards: Iterable[Shard]) -> None:
        """Check shards wholly: checksum, schema, numbers of rows and tokens, range of ids.

        Raises:
            CorpusError: for the first shard that is not what the manifest says.
        """
        for shard in shards:
            verify_shard(self.path, shard, self.manifest.vocabulary.words)

    def verify(
        self, workers: Workers | None = None, on_progress: Report = lambda line: None
    ) -> None:
        """Check the vocabulary and every shard of every split.

        Args:
            workers: who checks shards; without any this process.
            on_progress: gets a line for each shard.

        Raises:
            CorpusError: for the first file that is not what the manifest says.
        """
        load_vocabulary(self.path, self.manifest.vocabulary)
        vocab_size = self.manifest.vocabulary.words
        tasks = {
            shard.file: (verify_shard, self.path, shard, vocab_size)
            for split in self.manifest.splits.values()
            for shard in split.shards
        }
        for number, (file, num_tokens) in enumerate((workers or Workers()).each(tasks), 1):
            on_progress(f"checked {number} of {len(tasks)} shards: {file}, {num_tokens:,} tokens")


def verify_shard(root: Path, shard: Shard, vocab_size: int) -> int:
    """Check a shard wholly: checksum, schema, numbers of rows and tokens, range of ids.

    Returns:
        Its number of tokens.

    Raises:
        CorpusError: it is not what the manifest says.
    """
    check_file(root, shard)
    check_sha256(root / shard.file, shard.sha256)
    check_rows(root, shard, vocab_size)
    return shard.tokens


def load_vocabulary(root: Path, expected: VocabularyFile) -> Vocabulary:
    """Load a corpus's vocabulary; `CorpusError` where it is not the one the manifest says."""
    path = root / expected.file
    vocabulary = Vocabulary.load(path)
    check_sha256(path, expected.sha256)
    found = (len(vocabulary), vocabulary.eos_id, vocabulary.unk_id)
    if found != (expected.words, expected.eos_id, expected.unk_id):
        raise CorpusError(
            f"{path} has {found[0]} words with <eos> at {found[1]} and <unk> at {found[2]}, "
            f"expected {expected.words} with {expected.eos_id} and {expected.unk_id}; prepare the "
            "corpus again"
        )
    return vocabulary


class TokenSequence:
    """The N tokens of a split as one long sequence over memory-mapped shards.

    A shard is opened when a token of it is read, and keeps no file open, so that ten thousand
    shards need no more file handles than one. Nothing is copied but where a range crosses from one
    record batch to another.

    Args:
        root: the corpus folder.
        name: the split's name, for messages.
        shards: its shards in reading order.
        vocab_size: V.
        eos_id: id of `<eos>`, what position -1 reads as.
        copies: by a shard's file, the folder of the copy that is read in its place.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        shards: Sequence[Shard],
        vocab_size: int,
        eos_id: int,
        copies: Mapping[str, Path] | None = None,
    ) -> None:
        self.name = name
        self.vocab_size = vocab_size
        self.eos_id = eos_id
        self._root = root
        self._copies = copies or {}
        self._shards = tuple(shards)
        self._shard_starts = [0, *accumulate(shard.tokens for shard in self._shards)]
        self._opened: dict[int, OpenShard] = {}
        self._before_first = np.array([eos_id], dtype=np.int32)

    def __len__(self) -> int:
        return self._shard_starts[-1]

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The split's shards in reading order."""
        return self._shards

    def shards_between(self, start: int, stop: int) -> Sequence[Shard]:
        """Return the shards that the positions `start` to `stop - 1` lie in."""
        first = bisect_right(self._shard_starts, max(start, 0)) - 1
        return self._shards[first : bisect_left(self._shard_starts, stop)]

    def at_epoch(self, epoch: int) -> Self:
        """Return this sequence, which is the same in every epoch."""
        return self

    def read(self, start: int, stop: int) -> Ids:
        """Return the tokens at `start` to `stop - 1`, int32 [stop - start], not to be written to.

        Args:
            start: first position, -1 or more; position -1 reads as `<eos>`.
            stop: the position after the last, N at most.

        Raises:
            CorpusError: a shard is missing, truncated, or not what the manifest says.
            IndexError: the range lies outside the sequence.
        """
        if not BEFORE_FIRST <= start <= stop <= len(self):
            raise IndexError(f"range {start}:{stop} lies outside -1:{len(self)}")
        parts = []
        if start == BEFORE_FIRST and stop > start:
            parts.append(self._before_first)
            start = 0
        while start < stop:
            index = bisect_right(self._shard_starts, start) - 1
            part = self.opened(index).read_some(
                start - self._shard_starts[index], stop - self._shard_starts[index]
            )
            parts.append(part)
            start += len(part)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def count_ids(self) -> npt.NDArray[np.int64]:
        """Count how often each word occurs, int64 [V].

        Raises:
            CorpusError: a shard is missing or truncated, or holds an id that is no word's.
        """
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for index, shard in enumerate(self._shards):
            for ids in self.opened(index).batches:
                check_ids(self._root / shard.file, ids, self.vocab_size)
                np.add.at(counts, ids, 1)
        return counts

    def row_lengths(self) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the number of tokens of each row, shard by shard, without reading tokens.

        Raises:
            CorpusError: a shard is missing or truncated.
        """
        for shard in self._shards:
            opened = OpenShard.open(self._copies.get(shard.file, self._root), shard)
            yield np.diff(opened.row_starts())

    def opened(self, index: int) -> "OpenShard":
        """Return a shard by its number, opened now if it was not before.

        Raises:
            CorpusError: it is missing, truncated, or not what the manifest says.
        """
        opened = self._opened.get(index)
        if opened is None:
            shard = self._shards[index]
            opened = OpenShard.open(self._copies.get(shard.file, self._root), shard)
            self._opened[index] = opened
        return opened


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A memory-mapped shard.

    Attributes:
        batches: the tokens of each record batch, views of the file.
        starts: position of each batch's first token in the shard, and the shard's length.
        row_offsets: of each batch, where its rows begin in it, and its length; views of the file.
    """

    batches: tuple[Ids, ...]
    starts: tuple[int, ...]
    row_offsets: tuple[Ids, ...]

    @classmethod
    def open(cls, root: Path, shard: Shard) -> "OpenShard":
        """Map a shard; `CorpusError` where it is missing, truncated or of another length."""
        check_file(root, shard)
        columns = map_rows(root / shard.file)
        batches = tuple(rows.values.to_numpy(zero_copy_only=True) for rows in columns)
        starts = (0, *accumulate(len(ids) for ids in batches))
        num_rows = sum(map(len, columns))
        if (num_rows, starts[-1]) != (shard.rows, shard.tokens):
            raise CorpusError(
                f"{root / shard.file} holds {num_rows} rows and {starts[-1]} tokens, expected "
                f"{shard.rows} and {shard.tokens}; prepare the corpus again"
            )
        row_offsets = tuple(rows.offsets.to_numpy(zero_copy_only=True) for rows in columns)
        return cls(batches, starts, row_offsets)

    def read_some(self, start: int, stop: int) -> Ids:
        """Return the tokens from `start` to `stop` or to the end of `start`'s batch."""
        index = bisect_right(self.starts, start) - 1
        return self.batches[index][start - self.starts[index] : stop - self.starts[index]]

    def row_starts(self) -> npt.NDArray[np.int64]:
        """Return the position of each row's first token in the shard, and the shard's length."""
        # No row goes on from one record batch to the next.
        starts = [
            start + offsets[:-1].astype(np.int64)
            for start, offsets in zip(self.starts, self.row_offsets, strict=False)
        ]
        return np.concatenate([*starts, [self.starts[-1]]])


def map_rows(path: Path) -> list[pa.ListArray]:
    """Memory-map a shard and return the rows of each record batch.

    The file is closed again at once: the arrays keep the mapping, not the file handle.
    """
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if not reader.schema.equals(SCHEMA):
                described = ", ".join(f"{field.name}: {field.type}" for field in reader.schema)
                raise CorpusError(
                    f"{path} has the columns {described}, expected input_ids: list<int32>; "
                    "prepare the corpus again"
                )
            return [reader.get_batch(index).column(0) for index in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path} cannot be read ({error}), expected a shard of tokens; prepare the corpus again"
        ) from error


def check_file(root: Path, shard: Shard) -> None:
    """Raise `CorpusError` where a shard is missing or not as long as it should be."""
    path = root / shard.file
    try:
        found = path.stat().st_size
    except OSError as error:
        raise CorpusError(
            f"{path} cannot be found ({error.strerror}), expected a shard of {shard.bytes} bytes; "
            "copy it again or prepare the corpus again"
        ) from error
    if found != shard.bytes:
        raise CorpusError(
            f"{path} has {found} bytes, expected {shard.bytes}; copy it again or prepare the "
            "corpus again"
        )


def check_sha256(path: Path, expected: str) -> None:
    """Raise `CorpusError` where a file does not have the checksum it should have."""
    found = sha256_of(path)
    if found != expected:
        raise CorpusError(
            f"{path} has the SHA-256 {found}, expected {expected}: it was changed; copy it again "
            "or prepare the corpus again"
        )


def check_rows(root: Path, shard: Shard, vocab_size: int) -> None:
    """Raise `CorpusError` where a shard's content is not what the manifest says."""
    path = root / shard.file
    num_rows = num_tokens = 0
    for rows in map_rows(path):
        try:
            rows.validate(full=True)
        except pa.ArrowInvalid as error:
            raise CorpusError(f"{path} is damaged ({error}); prepare the corpus again") from error
        check_ids(path, rows.values.to_numpy(), vocab_size)
        num_rows += len(rows)
        num_tokens += len(rows.values)
    if (num_rows, num_tokens) != (shard.rows, shard.tokens):
        raise CorpusError(
            f"{path} holds {num_rows} rows and {num_tokens} tokens, expected {shard.rows} and "
            f"{shard.tokens}; prepare the corpus again"
        )


def check_ids(path: Path, ids: Ids, vocab_size: int) -> None:
    """Raise `CorpusError` where an id is no word's."""
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        wrong = ids[(ids < 0) | (ids >= vocab_size)][0]
        raise CorpusError(
            f"{path} holds the word id {wrong}, expected 0 to {vocab_size - 1}; prepare the corpus "
            "again"
        )
