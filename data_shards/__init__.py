"""Text to vocabulary and sharded Arrow corpus, and from there to deterministic, elastic batches.

The way of the data, a module a step: `sources` (files to spans of text, read by `text`, `delimited`
and `tables`) -> `words` -> `vocabulary` -> `prepare` (with `shards` and `manifest`) -> `corpus` ->
`lanes`. `demo` makes a corpus from the standard library's own words.
"""

from data_shards.corpus import Corpus, TokenSequence
from data_shards.demo import DemoText, demo_text, write_demo_corpus
from data_shards.errors import CorpusError
from data_shards.lanes import PADDING, Batch, LaneBatches, lane_slice
from data_shards.manifest import Manifest, Shard, Split, Tokenization, VocabularyFile
from data_shards.prepare import prepare_corpus
from data_shards.vocabulary import EOS, UNK, Vocabulary, unigram_perplexity
from data_shards.words import TextOptions, words_of

__all__ = [
    "EOS",
    "PADDING",
    "UNK",
    "Batch",
    "Corpus",
    "CorpusError",
    "DemoText",
    "LaneBatches",
    "Manifest",
    "Shard",
    "Split",
    "TextOptions",
    "TokenSequence",
    "Tokenization",
    "Vocabulary",
    "VocabularyFile",
    "demo_text",
    "lane_slice",
    "prepare_corpus",
    "unigram_perplexity",
    "words_of",
    "write_demo_corpus",
]
