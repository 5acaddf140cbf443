"""What a corpus is like: sizes, what its vocabulary covers, what it does not know."""

from collections.abc import Iterator

import numpy as np

from data_shards.corpus import Corpus
from data_shards.manifest import Split
from data_shards.vocabulary import EOS, UNK

COVERAGES = 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000
"""Numbers of the most frequent words whose share of the running words is told."""


def describe_corpus(corpus: Corpus, num_words: int = 20) -> Iterator[str]:
    """Yield lines that describe a corpus for people.

    Args:
        corpus: an open corpus.
        num_words: so many of the most frequent words are shown.

    Raises:
        CorpusError: vocabulary or shards are missing or damaged.
    """
    manifest, vocabulary = corpus.manifest, corpus.vocabulary
    tokenization = manifest.tokenization
    yield f"corpus {corpus.path}, fingerprint {corpus.fingerprint[:16]}"
    case = "lower case" if tokenization.lowercase else "case kept"
    yield f"tokenizer {tokenization.name}, {case}"
    yield f"vocabulary: {len(vocabulary):,} words, {EOS} and {UNK} among them"
    for name, split in manifest.splits.items():
        yield _describe_split(corpus, name, split)
    counts_V = np.sort(np.delete(vocabulary.counts, vocabulary.unk_id))[::-1]
    num_tokens = max(int(vocabulary.counts.sum()), 1)
    for size in (*(size for size in COVERAGES if size < len(counts_V)), len(counts_V)):
        share = counts_V[:size].sum() / num_tokens
        yield f"the {size:,} most frequent words cover {100 * share:.2f} % of the training text"
    most_frequent = np.argsort(-vocabulary.counts, kind="stable")[:num_words].tolist()
    for word in most_frequent:
        share = vocabulary.counts[word] / num_tokens
        yield f"{vocabulary.counts[word]:>14,}  {100 * share:6.2f} %  {vocabulary.words[word]}"


def _describe_split(corpus: Corpus, name: str, split: Split) -> str:
    longest = max(
        (int(lengths.max()) for lengths in corpus.split(name).row_lengths() if len(lengths)),
        default=0,
    )
    num_bytes = sum(shard.bytes for shard in split.shards)
    unknown = split.unknown_tokens / max(split.tokens, 1)
    return (
        f"{name}: {split.tokens:,} tokens, {split.rows:,} rows, {len(split.shards):,} shards of "
        f"{num_bytes / 1e6:,.1f} MB in all, {100 * unknown:.2f} % unknown, "
        f"{split.tokens / max(split.rows, 1):.1f} tokens a row, {longest:,} in the longest"
    )
