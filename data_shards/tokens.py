"""From pieces of text to blocks of tokens with their own small vocabulary, in order of the words.

A block is about a shard: rows of word ids that count in the block's own words alone, so that text
is read once and no word need be known beforehand. When the vocabulary is made, block ids become
word ids (`data_shards.encode`). No Python object is made for a running word.

Legend: N tokens, W words of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_shards.errors import CorpusError
from data_shards.shards import LONGEST_ROW_TOKENS, Ids
from data_shards.vocabulary import EOS, UNK
from data_shards.words import IS_BLANK

ROW_END, INNER_LINE_END = ord("\n"), ord("\v")


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens by their places in a list of words.

    Attributes:
        words: different words, binary [W]; some may not occur.
        places: place of each token's word, int32 [N].
        row_ends: position behind the last token of each row that ends among them, int64.
    """

    words: pa.BinaryArray
    places: Ids
    row_ends: npt.NDArray[np.int64]

    def cut(self, position: int) -> tuple["Tokens", "Tokens"]:
        """Return the tokens before a position, rows that end there included, and the others."""
        ended = int(np.searchsorted(self.row_ends, position, side="right"))
        return (
            Tokens(self.words, self.places[:position], self.row_ends[:ended]),
            Tokens(self.words, self.places[position:], self.row_ends[ended:] - position),
        )


@dataclass(frozen=True, eq=False)
class Block:
    """Whole rows of tokens, and their words in the order of their bytes.

    Attributes:
        words: the W different words, binary, in order.
        counts: how often each occurs, int64 [W], 1 or more.
        ids: place of each token's word, int32 [N].
        row_ends: position behind each row's last token, int64 [rows].
    """

    words: pa.BinaryArray
    counts: npt.NDArray[np.int64]
    ids: Ids
    row_ends: npt.NDArray[np.int64]


def parse_piece(text: bytes, *, records: bool, max_word_bytes: int) -> Tokens:
    """Split a piece of text that ends in a blank into words, with `<eos>` where lines end.

    Args:
        text: UTF-8; words between blanks.
        records: whether a vertical tab ends a line inside a row; else it is a blank.
        max_word_bytes: longer words become `<unk>`.
    """
    characters = np.frombuffer(text, dtype=np.uint8)
    blank = IS_BLANK[characters]
    begins = np.flatnonzero(blank[:-1] & ~blank[1:]) + 1
    if len(text) and not blank[0]:
        begins = np.concatenate(([0], begins))
    letters = characters[~blank]
    # Where each word begins among the letters: what stands before it in the text, less the blanks.
    num_blanks = np.cumsum(blank, dtype=np.int32)
    offsets = np.append(begins - num_blanks[begins], len(letters)).astype(np.int32)
    words = pa.Array.from_buffers(
        pa.binary(), len(begins), [None, pa.py_buffer(offsets), pa.py_buffer(letters)]
    ).dictionary_encode()
    places, dictionary = words.indices.to_numpy(), words.dictionary
    too_long = pc.greater(pc.binary_length(dictionary), max_word_bytes)
    if pc.any(too_long).as_py():
        dictionary = pc.if_else(too_long, pa.scalar(UNK.encode(), pa.binary()), dictionary)

    line_ends = characters == ROW_END
    if records:
        line_ends |= characters == INNER_LINE_END
    ends = np.flatnonzero(line_ends)
    # An `<eos>` stands behind the words before its line's end and the `<eos>` of the lines before.
    eos_positions = np.searchsorted(begins, ends) + np.arange(len(ends))
    all_places = np.empty(len(places) + len(ends), dtype=np.int32)
    is_word = np.ones(len(all_places), dtype=np.bool_)
    is_word[eos_positions] = False
    all_places[is_word] = places
    all_places[eos_positions] = len(dictionary)
    return Tokens(
        pa.concat_arrays([dictionary, pa.array([EOS.encode()], pa.binary())]),
        all_places,
        eos_positions[characters[ends] == ROW_END] + 1,
    )


class BlockBuilder:
    """Puts tokens together to blocks, each ended by the first row that reaches `block_tokens`.

    Where the tokens are cut into pieces has no influence on the blocks.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._parts: list[Tokens] = []
        self._num_tokens = self._ended_tokens = 0

    def add(self, tokens: Tokens) -> Iterator[Block]:
        """Take the next tokens, and yield the blocks that are complete.

        Raises:
            CorpusError: a row has more tokens than can be counted.
        """
        while len(tokens.places):
            last = int(np.searchsorted(tokens.row_ends, self._block_tokens - self._num_tokens))
            if last == len(tokens.row_ends):
                self._keep(tokens)
                return
            complete, tokens = tokens.cut(int(tokens.row_ends[last]))
            self._parts.append(complete)
            yield from self.finish()

    def finish(self) -> Iterator[Block]:
        """Yield the last block, if any; the last row has to be a whole one."""
        if self._parts:
            yield _block(self._parts)
        self._parts, self._num_tokens, self._ended_tokens = [], 0, 0

    def _keep(self, tokens: Tokens) -> None:
        self._parts.append(tokens)
        if len(tokens.row_ends):
            self._ended_tokens = self._num_tokens + int(tokens.row_ends[-1])
        self._num_tokens += len(tokens.places)
        if self._num_tokens - self._ended_tokens > LONGEST_ROW_TOKENS:
            raise CorpusError(
                f"a line has more than {LONGEST_ROW_TOKENS} tokens, more than a row can hold; "
                "break the text into lines"
            )


def _block(parts: list[Tokens]) -> Block:
    """Give the tokens of some parts, each with words of its own, ids by the words of all."""
    together = pa.concat_arrays([part.words for part in parts]).dictionary_encode()
    id_of_word = together.indices.to_numpy()
    first_words = np.cumsum([0, *(len(part.words) for part in parts)])
    ids = np.concatenate(
        [id_of_word[first:][part.places] for first, part in zip(first_words, parts, strict=False)]
    )
    counts = np.bincount(ids, minlength=len(together.dictionary))
    occurring = np.flatnonzero(counts)
    # In order of the words' bytes, without those that other blocks took all occurrences of.
    words = together.dictionary.take(pa.array(occurring))
    order = pc.sort_indices(words).to_numpy()
    place_of_id = np.empty(len(counts), dtype=np.int32)
    place_of_id[occurring[order]] = np.arange(len(occurring))
    first_tokens = np.cumsum([0, *(len(part.places) for part in parts)])
    row_ends = [part.row_ends + first for first, part in zip(first_tokens, parts, strict=False)]
    return Block(
        words.take(pa.array(order)),
        counts[occurring[order]],
        place_of_id[ids],
        np.concatenate(row_ends),
    )
