"""Text to tokens, and tokens to blocks, against the plain rules."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards import shards
from data_shards.tokens import Block, BlockBuilder, Tokens, parse_piece

TEXT = st.text("ab é\v\t\r\n", max_size=60).map(lambda text: text + "\n")


def words_and_rows(tokens: Tokens | Block) -> list[list[str]]:
    """Return the words of each row; the last row is what follows the last end."""
    places = tokens.ids if isinstance(tokens, Block) else tokens.places
    words = [tokens.words[place].as_py().decode() for place in places.tolist()]
    bounds = [0, *tokens.row_ends.tolist(), len(words)]
    return [words[start:stop] for start, stop in itertools.pairwise(bounds)]


def plain_rows(text: str, *, records: bool) -> list[list[str]]:
    """Split text into rows of words with `<eos>`, the plain way, and nothing after the last."""
    rows = []
    for row in text.split("\n")[:-1]:
        lines = row.split("\v") if records else [row]
        rows.append([word for line in lines for word in [*line.split(), "<eos>"]])
    return [*rows, []]


@given(TEXT, st.booleans())
def test_a_piece_becomes_the_words_that_python_finds(text: str, records: bool) -> None:
    tokens = parse_piece(text.encode(), records=records, max_word_bytes=100)
    assert words_and_rows(tokens) == plain_rows(text, records=records)


@given(TEXT, st.lists(st.integers(0, 60), max_size=5), st.integers(1, 12))
def test_blocks_hold_whole_rows_however_the_text_is_cut(
    text: str, cuts: list[int], block_tokens: int
) -> None:
    content = text.encode()
    # Pieces end in a blank, so they cut no word.
    blanks = [place + 1 for place in range(len(content)) if content[place : place + 1].isspace()]
    bounds = sorted({0, len(content), *(blanks[cut % len(blanks)] for cut in cuts)})
    builder = BlockBuilder(block_tokens)
    blocks = []
    for start, stop in itertools.pairwise(bounds):
        piece = parse_piece(content[start:stop], records=False, max_word_bytes=100)
        blocks += builder.add(piece)
    blocks += builder.finish()

    assert [row for block in blocks for row in words_and_rows(block)[:-1]] == plain_rows(
        text, records=False
    )[:-1]
    for number, block in enumerate(blocks):
        words = block.words.to_pylist()
        assert words == sorted(set(words))
        assert block.counts.tolist() == np.bincount(block.ids, minlength=len(words)).tolist()
        assert block.counts.min() >= 1
        assert block.row_ends[-1] == len(block.ids)
        # It ends with the first row that reaches the wanted number.
        before_last_row = block.row_ends[-2] if len(block.row_ends) > 1 else 0
        assert before_last_row < block_tokens
        assert number == len(blocks) - 1 or len(block.ids) >= block_tokens


def test_long_words_become_unknown() -> None:
    tokens = parse_piece("short longer éé\n".encode(), records=False, max_word_bytes=5)
    assert words_and_rows(tokens)[0] == ["short", "<unk>", "éé", "<eos>"]


def test_a_row_with_more_tokens_than_can_be_counted_is_refused(monkeypatch, fails) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("data_shards.tokens.LONGEST_ROW_TOKENS", 5)
    builder = BlockBuilder(100)
    piece = parse_piece(b"a b c ", records=False, max_word_bytes=100)
    assert list(builder.add(piece)) == []
    with fails("more than 5 tokens", "break the text into lines"):
        list(builder.add(piece))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 12))
def test_record_batches_end_with_the_row_that_reaches_their_size(
    lengths: list[int], batch_tokens: int
) -> None:
    ids = np.arange(sum(lengths), dtype=np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BATCH_TOKENS", batch_tokens)
        batches = list(shards.batches_of_rows(ids, np.cumsum(lengths)))
    rows = [row for batch in batches for row in batch.column(0).to_pylist()]
    assert [len(row) for row in rows] == lengths
    assert [one for row in rows for one in row] == ids.tolist()
    for number, batch in enumerate(batches):
        sizes = [len(row) for row in batch.column(0).to_pylist()]
        assert sum(sizes[:-1]) < batch_tokens
        assert number == len(batches) - 1 or sum(sizes) >= batch_tokens
