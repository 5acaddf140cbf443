"""Step 2 of a build: the words of all training blocks counted, and the vocabulary cut.

Legend: V words of the vocabulary.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_shards.manifest import VOCABULARY_FILE, VocabularyFile
from data_shards.merging import Run, merge_range, ranges_of_words, read_run
from data_shards.pool import Report, Workers
from data_shards.reading import StoredBlock
from data_shards.recipe import Recipe
from data_shards.vocabulary import EOS, UNK, Vocabulary, check_cut
from data_shards.work_folder import WorkFolder

RESERVED = (EOS.encode(), UNK.encode())

VOCABULARY_NOTE = "vocabulary"


def count_words(
    blocks: Sequence[StoredBlock],
    recipe: Recipe,
    given_words: pa.BinaryArray | None,
    folder: WorkFolder,
    workers: Workers,
    on_progress: Report,
) -> VocabularyFile:
    """Write the vocabulary of the training blocks into the corpus.

    Args:
        blocks: of all splits.
        recipe: how.
        given_words: words to use as they are, binary; None to cut the most frequent ones.
        folder: of the build.
        workers: who merges.
        on_progress: gets one line now and then.
    """
    noted = folder.note(VOCABULARY_NOTE)
    if noted is not None:
        return VocabularyFile(**noted)
    runs = [block.run(folder) for block in blocks if block.split == "train"]
    merged = _merge(runs, recipe.memory_bytes, folder, workers, on_progress)
    if given_words is None:
        vocabulary = cut_vocabulary(merged, recipe.vocab_size, recipe.min_count)
    else:
        vocabulary = given_vocabulary(merged, given_words)
    path = folder.corpus / VOCABULARY_FILE
    path.unlink(missing_ok=True)
    file = VocabularyFile(
        VOCABULARY_FILE,
        len(vocabulary),
        vocabulary.eos_id,
        vocabulary.unk_id,
        vocabulary.save(path),
    )
    folder.write_note(VOCABULARY_NOTE, file.__dict__)
    num_words = sum(run.num_words for run in merged)
    on_progress(f"vocabulary: {len(vocabulary):,} words out of {num_words:,} different ones")
    return file


def _merge(
    runs: Sequence[Run],
    memory_bytes: int,
    folder: WorkFolder,
    workers: Workers,
    on_progress: Report,
) -> list[Run]:
    """Return runs that hold every word once, in order over all of them."""
    if len(runs) == 1:
        return list(runs)
    ranges = ranges_of_words(runs, memory_bytes)
    names = [f"words-{number:05d}" for number in range(len(ranges))]
    tasks = {
        name: (merge_range, runs, first, last, folder.counts / f"{name}.arrow")
        for name, (first, last) in zip(names, ranges, strict=True)
    }
    merged = {}
    for name, run in workers.each(tasks):
        merged[name] = run
        on_progress(f"merged {len(merged)} of {len(tasks)} ranges of words")
    return [merged[name] for name in names]


def cut_vocabulary(
    runs: Sequence[Run], vocab_size: int | None = None, min_count: int = 1
) -> Vocabulary:
    """Cut the most frequent words and put them in order.

    `<eos>` and `<unk>` are always entries and count towards `vocab_size`. Words rank by count, the
    highest first, and by their UTF-8 bytes where counts are equal. The occurrences of the words cut
    are added to those of `<unk>`. In memory are the words that are kept, and those of one run.

    Args:
        runs: merged ones: no word is in two of them, and those of a run stand before those of the
            next.
        vocab_size: V at most; None keeps every word.
        min_count: words that occur less often are cut.

    Raises:
        CorpusError: `vocab_size` is below 3 or `min_count` below 1.
    """
    check_cut(vocab_size, min_count)
    words_with_count: Counter[int] = Counter()
    for _, counts in _without_reserved(runs):
        values, numbers = np.unique(counts, return_counts=True)
        words_with_count.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    least, room = _least_count(words_with_count, vocab_size, min_count)

    kept_words, kept_counts, reserved = [], [], dict.fromkeys(RESERVED, 0)
    num_tokens = 0
    for words, counts in _all_words(runs, reserved):
        num_tokens += int(counts.sum())
        kept = counts > least
        # Of the words that occur just often enough, the first ones in the order of their bytes.
        tied = np.flatnonzero(counts == least)[:room]
        room -= len(tied)
        kept[tied] = True
        kept_words.append(words.filter(pa.array(kept)))
        kept_counts.append(counts[kept])
    counts = np.concatenate([*kept_counts, np.zeros(len(RESERVED), np.int64)])
    counts[-2] = reserved[RESERVED[0]]
    counts[-1] = reserved[RESERVED[1]] + num_tokens - int(counts[:-2].sum())
    words = pa.concat_arrays([*kept_words, pa.array(RESERVED, pa.binary())])
    return _ranked(words, counts)


def given_vocabulary(runs: Sequence[Run], words: pa.BinaryArray) -> Vocabulary:
    """Count given words, which keep their order; `<eos>` and `<unk>` come first where missing.

    Args:
        runs: as in `cut_vocabulary`.
        words: different words, binary.
    """
    missing = [
        word for word in RESERVED if pc.index(words, pa.scalar(word, pa.binary())).as_py() < 0
    ]
    words = pa.concat_arrays([pa.array(missing, pa.binary()), words])
    counts = np.zeros(len(words), np.int64)
    num_tokens = 0
    for run in runs:
        run_words, run_counts = read_run(run.path)
        places = pc.index_in(run_words, value_set=words).to_numpy(zero_copy_only=False)
        known = ~np.isnan(places)
        numbers = run_counts.to_numpy()
        counts[places[known].astype(np.int64)] += numbers[known]
        num_tokens += int(numbers.sum())
    unk = pc.index(words, pa.scalar(RESERVED[1], pa.binary())).as_py()
    counts[unk] += num_tokens - int(counts.sum())
    return Vocabulary(words.cast(pa.string()), counts)


def _least_count(
    words_with_count: Counter[int], vocab_size: int | None, min_count: int
) -> tuple[int, int]:
    """Return the count at which the vocabulary is full, and how many words with it have room."""
    room = sum(words_with_count.values()) if vocab_size is None else vocab_size - len(RESERVED)
    for count in sorted(words_with_count, reverse=True):
        if count < min_count:
            break
        if words_with_count[count] >= room:
            return count, room
        room -= words_with_count[count]
    return min_count - 1, 0


def _all_words(
    runs: Sequence[Run], reserved: dict[bytes, int]
) -> Iterator[tuple[pa.BinaryArray, npt.NDArray[np.int64]]]:
    """Yield words and counts run by run, those of reserved words put into `reserved` instead."""
    values = pa.array(list(reserved), pa.binary())
    for run in runs:
        words, counts = read_run(run.path)
        is_reserved = pc.is_in(words, value_set=values)
        for place in np.flatnonzero(is_reserved.to_numpy(zero_copy_only=False)).tolist():
            reserved[words[place].as_py()] = counts[place].as_py()
        others = pc.invert(is_reserved)
        yield words.filter(others), counts.filter(others).to_numpy()


def _without_reserved(
    runs: Sequence[Run],
) -> Iterator[tuple[pa.BinaryArray, npt.NDArray[np.int64]]]:
    return _all_words(runs, dict.fromkeys(RESERVED, 0))


def _ranked(words: pa.BinaryArray, counts: npt.NDArray[np.int64]) -> Vocabulary:
    """Return words by falling counts, and by their bytes where counts are equal."""
    order = pc.sort_indices(
        pa.table([words, counts], ["word", "count"]),
        sort_keys=[("count", "descending"), ("word", "ascending")],
    )
    return Vocabulary(words.take(order).cast(pa.string()), counts[order.to_numpy()])
