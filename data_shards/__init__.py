"""Text to vocabulary and sharded Arrow corpus, and from there to deterministic, elastic batches.

The way of the data, a module a step: `sources` (files to spans, read by `text`, `delimited` and
`tables` as pieces of `words`) -> `reading` (`tokens`, blocks) -> `counting` (`merging`,
`vocabulary`) -> `encoding` (`shards`, `manifest`) -> `corpus` (with copies by `staging`) ->
`batches`, which are `lanes` over a text as it is or `shuffled`, or `sentences`. `prepare` puts the
steps of a build together, `pool` has its workers. `demo` makes a corpus from the standard library's
own words.
"""

from data_shards.batches import PADDING, Batch, Batches, count_targets, lane_slice
from data_shards.corpus import Corpus, TokenSequence
from data_shards.demo import DemoText, demo_text, write_demo_corpus
from data_shards.description import describe_corpus
from data_shards.download import download_corpus, prepare_command
from data_shards.errors import CorpusError
from data_shards.hold_out import HoldOut
from data_shards.known_corpora import KNOWN_CORPORA, PublishedFile
from data_shards.lanes import LaneBatches
from data_shards.manifest import Manifest, Shard, Split, Tokenization, VocabularyFile
from data_shards.pool import Workers, local_workers, run_with_mpi, started_by_mpi
from data_shards.prepare import prepare_corpus
from data_shards.recipe import Recipe
from data_shards.row_order import RowOrder
from data_shards.sentences import SentenceBatches
from data_shards.shuffled import ShuffledTokens
from data_shards.staging import stage_shards
from data_shards.transfer import Patience
from data_shards.vocabulary import EOS, UNK, Vocabulary, unigram_perplexity
from data_shards.words import TextOptions, words_of

__all__ = [
    "EOS",
    "KNOWN_CORPORA",
    "PADDING",
    "UNK",
    "Batch",
    "Batches",
    "Corpus",
    "CorpusError",
    "DemoText",
    "HoldOut",
    "LaneBatches",
    "Manifest",
    "Patience",
    "PublishedFile",
    "Recipe",
    "RowOrder",
    "SentenceBatches",
    "Shard",
    "ShuffledTokens",
    "Split",
    "TextOptions",
    "TokenSequence",
    "Tokenization",
    "Vocabulary",
    "VocabularyFile",
    "Workers",
    "count_targets",
    "demo_text",
    "describe_corpus",
    "download_corpus",
    "lane_slice",
    "local_workers",
    "prepare_command",
    "prepare_corpus",
    "run_with_mpi",
    "stage_shards",
    "started_by_mpi",
    "unigram_perplexity",
    "words_of",
    "write_demo_corpus",
]
