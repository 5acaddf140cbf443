"""Text to vocabulary and sharded Arrow corpus, and from there to deterministic, elastic batches.

The way of the data, a module a step: `text` -> `vocabulary` -> `prepare` (with `shards` and
`manifest`) -> `corpus` (with copies by `staging`) -> `batches`, which are `lanes` over a text as it
is or `shuffled`, or `sentences`. `demo` makes a corpus from the standard library's own words.
"""

from data_shards.batches import PADDING, Batch, Batches, count_targets, lane_slice
from data_shards.corpus import Corpus, TokenSequence
from data_shards.demo import DemoText, demo_text, write_demo_corpus
from data_shards.errors import CorpusError
from data_shards.lanes import LaneBatches
from data_shards.manifest import Manifest, Shard, Split, Tokenization, VocabularyFile
from data_shards.prepare import prepare_corpus
from data_shards.row_order import RowOrder
from data_shards.sentences import SentenceBatches
from data_shards.shuffled import ShuffledTokens
from data_shards.staging import stage_shards
from data_shards.text import split_words
from data_shards.vocabulary import EOS, UNK, Vocabulary, unigram_perplexity

__all__ = [
    "EOS",
    "PADDING",
    "UNK",
    "Batch",
    "Batches",
    "Corpus",
    "CorpusError",
    "DemoText",
    "LaneBatches",
    "Manifest",
    "RowOrder",
    "SentenceBatches",
    "Shard",
    "ShuffledTokens",
    "Split",
    "TokenSequence",
    "Tokenization",
    "Vocabulary",
    "VocabularyFile",
    "count_targets",
    "demo_text",
    "lane_slice",
    "prepare_corpus",
    "split_words",
    "stage_shards",
    "unigram_perplexity",
    "write_demo_corpus",
]
