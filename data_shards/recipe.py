"""How text becomes a corpus: all settings that decide what comes out."""

from dataclasses import dataclass, field
from pathlib import Path

from data_shards.errors import CorpusError
from data_shards.hold_out import HoldOut
from data_shards.manifest import Tokenization
from data_shards.vocabulary import check_cut
from data_shards.words import TextOptions

SHARD_TOKENS = 2**24
MAX_WORD_BYTES = 1024
MEMORY_GIB = 2.0

BYTES_A_TOKEN_OF_BLOCK, BYTES_BESIDE_BLOCK = 48, 400 << 20
"""What a worker takes at most in memory, by the tokens of a block."""


@dataclass(frozen=True)
class Recipe:
    """How text becomes a corpus.

    Attributes:
        text: how files become words.
        vocab_size: number of entries at most, `<eos>` and `<unk>` included; None keeps every word.
        min_count: words that occur less often become `<unk>`.
        vocabulary: a file with the words to use instead, see `read_word_list`.
        max_word_bytes: longer words become `<unk>`.
        hold_out: what is taken from the training text for validation and test.
        shard_tokens: wanted number of tokens a shard.
        memory_gib: of each worker at most.
    """

    text: TextOptions = field(default_factory=TextOptions)
    vocab_size: int | None = None
    min_count: int = 1
    vocabulary: Path | None = None
    max_word_bytes: int = MAX_WORD_BYTES
    hold_out: HoldOut | None = None
    shard_tokens: int = SHARD_TOKENS
    memory_gib: float = MEMORY_GIB

    @property
    def tokenization(self) -> Tokenization:
        """What the manifest says of it."""
        text = self.text
        return Tokenization(text.tokenizer, text.lowercase, text.normalize)

    @property
    def memory_bytes(self) -> int:
        """What a worker may take for what grows with the text."""
        return int(self.memory_gib * 2**30) - BYTES_BESIDE_BLOCK

    def check(self) -> None:
        """Raise `CorpusError` where nothing can be built so."""
        check_cut(self.vocab_size, self.min_count)
        if self.vocabulary is not None and (self.vocab_size is not None or self.min_count > 1):
            raise CorpusError(
                f"the words are those of {self.vocabulary}, expected no cut beside it; leave out "
                "--vocab-size and --min-count, or --vocab"
            )
        if self.shard_tokens < 1:
            raise CorpusError(
                f"shard_tokens={self.shard_tokens}, expected at least 1; raise --shard-tokens"
            )
        if self.max_word_bytes < 1:
            raise CorpusError(
                f"max_word_bytes={self.max_word_bytes}, expected at least 1; raise --max-word-bytes"
            )
        if self.memory_bytes < self.shard_tokens * BYTES_A_TOKEN_OF_BLOCK:
            needed = self.shard_tokens * BYTES_A_TOKEN_OF_BLOCK + BYTES_BESIDE_BLOCK
            raise CorpusError(
                f"memory={self.memory_gib:g} GiB is less than the {needed / 2**30:.1f} GiB that "
                f"shards of {self.shard_tokens} tokens take; raise --memory or lower "
                "--shard-tokens"
            )
