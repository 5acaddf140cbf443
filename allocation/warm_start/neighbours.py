"""How often each word stands right after, and right before, each of the frequent words.

Every rank counts a contiguous share of the text in runs: sorted lists of pairs on disk, so that
memory is bounded however long the text is. Then the runs of all ranks are added up on rank 0, a
range of words at a time, into two sparse matrices on disk. Counts are whole numbers, so that any
number of processes gives the same.

Legend: V words, K frequent words that serve as contexts, P different pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from allocation.collectives import run_together
from allocation.communicators import Communicator
from allocation.warm_start.files import GrowingFile
from lightrnn.errors import LightRNNError

TOKENS_PER_RUN = 1 << 23
"""Tokens that a run is made from, in some 400 MB while it is sorted."""

PAIRS_PER_RANGE = 1 << 23
"""About as many pairs as a range of words has at most, in 128 MB from each rank."""

Int64Array = npt.NDArray[np.int64]


class Tokens(Protocol):
    """A text as word ids that can be read from anywhere."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Return the word ids at `start` to `stop - 1`; position -1 ends the line before."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Different pairs of words, in ascending order.

    Attributes:
        keys: each pair as one number, int64 [P].
        counts: how often each occurs, int64 [P].
    """

    keys: Int64Array
    counts: Int64Array

    def between(self, start: int, stop: int) -> "Pairs":
        """Return the pairs with keys from `start` to `stop - 1`."""
        part = slice(*np.searchsorted(self.keys, [start, stop]))
        return Pairs(self.keys[part], self.counts[part])

    @classmethod
    def added_up(cls, parts: list["Pairs"]) -> "Pairs":
        """Return all pairs of some lists, in which a pair may occur more than once."""
        if not parts:
            return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        keys = np.concatenate([part.keys for part in parts])
        order = np.argsort(keys, kind="stable")  # several ascending lists: merged, not sorted
        keys = keys[order]
        counts = np.concatenate([part.counts for part in parts])[order]
        firsts = np.flatnonzero(np.diff(keys, prepend=-1))
        return cls(keys[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts)


@dataclass(frozen=True)
class NeighbourCounts:
    """Sparse counts of pairs, float32 [V, K] each.

    Attributes:
        after: how often each word stands right after each context.
        before: how often each word stands right before each context.
    """

    after: sparse.csr_array
    before: sparse.csr_array


def count_neighbours(
    tokens: Tokens,
    word_counts: npt.ArrayLike,
    num_contexts: int,
    communicator: Communicator,
    user_errors: tuple[type[Exception], ...] = (LightRNNError,),
) -> NeighbourCounts | None:
    """Count the pairs of neighbours of a text; called by all ranks.

    Args:
        tokens: the text, the same on every rank.
        word_counts: occurrences of each word, [V], which rank the contexts.
        num_contexts: K at most.
        communicator: all ranks.
        user_errors: what reading the text may raise for a user to mend.

    Returns:
        The counts on rank 0, None on the others.

    Raises:
        LightRNNError: on every rank, where a rank cannot read the text or has no room on disk.
    """
    word_counts = np.asarray(word_counts, dtype=np.int64)
    context_of_word = _context_of_word(word_counts, num_contexts)
    rank, world_size = communicator.rank, communicator.world_size
    share = range(len(tokens) * rank // world_size, len(tokens) * (rank + 1) // world_size)
    runs = run_together(
        lambda: list(_count_runs(tokens, share, context_of_word)), communicator, user_errors
    )
    return _add_up_runs(runs, word_counts, int(context_of_word.max()) + 1, communicator)


def _context_of_word(word_counts: Int64Array, num_contexts: int) -> Int64Array:
    """Return each word's number as a context, by falling count, int64 [V]; -1 beyond K."""
    frequent = np.argsort(-word_counts, kind="stable")[:num_contexts]
    context_of_word = np.full(len(word_counts), -1, dtype=np.int64)
    context_of_word[frequent] = np.arange(len(frequent))
    return context_of_word


def _count_runs(tokens: Tokens, share: range, context_of_word: Int64Array) -> Iterator[Pairs]:
    """Yield the pairs of runs of a share of the text, sorted and on disk.

    The pair of a word and a context `k` is `word * K + k` if the word comes second, and
    `(V + word) * K + k` if it comes first.
    """
    num_words, num_contexts = len(context_of_word), int(context_of_word.max()) + 1
    for start in share[::TOKENS_PER_RUN]:
        text = np.asarray(tokens.read(start - 1, min(start + TOKENS_PER_RUN, share.stop)), np.int64)
        first, second = text[:-1], text[1:]
        views = []
        for words, neighbours in ((second, first), (num_words + first, second)):
            contexts = context_of_word[neighbours]
            views.append((words * num_contexts + contexts)[contexts >= 0])
        yield Pairs(*map(_on_disk, np.unique(np.concatenate(views), return_counts=True)))


def _on_disk(array: Int64Array) -> Int64Array:
    file = GrowingFile(np.int64)
    file.append(array)
    return file.map()


class _CountMatrix:
    """A sparse matrix of counts that grows by rows, on disk."""

    def __init__(self, num_contexts: int) -> None:
        self.num_contexts = num_contexts
        self.counts, self.contexts = GrowingFile(np.float32), GrowingFile(np.int32)
        self.row_ends = [np.zeros(1, dtype=np.int64)]

    def append(self, parts: list[Pairs], keys: range) -> None:
        """Add the rows of some words: all their pairs, whose keys are in a range."""
        pairs = Pairs.added_up(parts)
        num_words = len(keys) // self.num_contexts
        per_word = np.bincount((pairs.keys - keys.start) // self.num_contexts, minlength=num_words)
        self.row_ends.append(self.row_ends[-1][-1] + np.cumsum(per_word))
        self.contexts.append(pairs.keys % self.num_contexts)
        self.counts.append(pairs.counts)

    def finished(self) -> sparse.csr_array:
        row_ends = np.concatenate(self.row_ends)
        parts = self.counts.map(), self.contexts.map(), row_ends
        return sparse.csr_array(parts, shape=(len(row_ends) - 1, self.num_contexts))


def _add_up_runs(
    runs: list[Pairs], word_counts: Int64Array, num_contexts: int, communicator: Communicator
) -> NeighbourCounts | None:
    """Add up the runs of all ranks on rank 0, one range of words after the other."""
    is_root = communicator.rank == 0
    views = _CountMatrix(num_contexts), _CountMatrix(num_contexts)
    for view, matrix in enumerate(views):
        for words in _ranges(word_counts):
            start, stop = (view * len(word_counts) + word for word in (words.start, words.stop))
            keys = range(start * num_contexts, stop * num_contexts)
            # Each rank adds up its own first: what goes over the network has each pair once.
            own = Pairs.added_up([run.between(keys.start, keys.stop) for run in runs])
            parts = _gather(own, communicator)
            run_together(partial(matrix.append, parts, keys) if is_root else _idle, communicator)
    return NeighbourCounts(*(matrix.finished() for matrix in views)) if is_root else None


def _ranges(word_counts: Int64Array) -> Iterator[range]:
    """Cut all words into ranges that occur about `PAIRS_PER_RANGE` times each."""
    ends = np.cumsum(word_counts)
    start = 0
    while start < len(word_counts):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + PAIRS_PER_RANGE, side="right"))
        stop = max(stop, start + 1)
        yield range(start, stop)
        start = stop


def _gather(pairs: Pairs, communicator: Communicator) -> list[Pairs]:
    """Return the pairs of each rank on rank 0, and nothing on the others."""
    sizes = np.zeros(communicator.world_size, dtype=np.int64)
    sizes[communicator.rank] = len(pairs.keys)
    communicator.all_reduce(sizes)
    if communicator.rank != 0:
        communicator.send(pairs.keys, 0)
        communicator.send(pairs.counts, 0)
        return []
    gathered = [pairs]
    for source, size in enumerate(sizes[1:], start=1):
        received = Pairs(np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64))
        communicator.receive(received.keys, source)
        communicator.receive(received.counts, source)
        gathered.append(received)
    return gathered


def _idle() -> None:
    """Do nothing, while rank 0 does something."""
