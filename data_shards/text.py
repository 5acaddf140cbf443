"""Text as lines of words, read in bounded pieces.

A line ends at `\\n` and nowhere else; words are separated by ASCII blanks and nothing else, so that
a no-break space or a Unicode line separator inside a word stays inside. That is what `bytes.split`
does and `str.split` does not. (The tokenizer `word` cuts words further, see `words`.)
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data_shards.errors import CorpusError
from data_shards.spans import PIECE_BYTES, Part, Piece, open_bytes
from data_shards.words import (
    BLANKS,
    TextOptions,
    checked,
    rewritten,
)

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_text(
    part: Part, options: TextOptions, option: str, piece_bytes: int = PIECE_BYTES
) -> Iterator[Piece]:
    """Read plain text as checked pieces of about `piece_bytes` bytes.

    A piece ends after a `\\n`, or after another blank inside a line that is longer than a piece.

    Raises:
        CorpusError: the file is empty, is not UTF-8, holds a NUL byte or a word longer than a
            piece.
        OSError, EOFError, lzma.LZMAError, pa.ArrowException: it cannot be read.
    """
    for offset, block in line_blocks(part, option, piece_bytes, cut_lines=True):
        place = partial(place_in_text, part, offset)
        text = checked(block, options.on_bad_bytes, place, option)
        yield Piece(rewritten(text, options), records=False)


def line_blocks(
    part: Part, option: str, block_bytes: int, *, cut_lines: bool
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that start in a stretch of a file, about `block_bytes` at a time.

    Each block comes with its place in the file, decompressed, in bytes. It ends in `\\n`, also
    where the file does not. A byte order mark at the file's start is left out.

    Args:
        part: the stretch, in bytes.
        option: the option to name in errors.
        block_bytes: the size of a block.
        cut_lines: whether a longer line is cut after a blank, or comes as a whole.

    Raises:
        CorpusError: the file is empty, or a line that has to be cut has no blank.
    """
    rest, begin = b"", 0
    last_byte = b""
    for offset, chunk in line_chunks(part, block_bytes):
        begin = begin if rest else offset
        rest += chunk
        end = rest.rfind(b"\n") + 1
        if not end and cut_lines:
            end = end_of_words(rest, 0, len(rest))
            if not end and len(rest) >= block_bytes:
                raise CorpusError(
                    f"{part}, line {line_number(part.path, begin)}: {len(rest)} bytes from byte "
                    f"{begin} on hold no blank, expected text with words separated by blanks; "
                    f"change {option}"
                )
        if end:
            last_byte = rest[end - 1 : end]
            yield without_mark(begin, rest[:end])
            begin, rest = begin + end, rest[end:]
    begin, rest = without_mark(begin, rest)
    if rest:
        yield begin, rest + b"\n"
    elif last_byte and last_byte != b"\n":
        yield begin, b"\n"
    elif not last_byte and (part.start, part.stop) == (0, None):
        raise CorpusError(f"{part} is empty, expected at least one line of text; change {option}")


def line_chunks(part: Part, chunk_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of the lines that start in a stretch of a file, and where they stand."""
    stop = sys.maxsize if part.stop is None else part.stop
    with open_bytes(part.path) as file:
        offset = part.start
        if offset:  # what is left of the line before; a line may start just here
            offset -= 1
            file.seek(offset)
            while offset < stop and (skipped := file.readline(chunk_bytes)):
                offset += len(skipped)
                if skipped.endswith(b"\n"):
                    break
        last_byte = b""
        while offset < stop and (chunk := file.read(min(chunk_bytes, stop - offset))):
            yield offset, chunk
            offset, last_byte = offset + len(chunk), chunk[-1:]
        while last_byte not in (b"", b"\n") and (chunk := file.readline(chunk_bytes)):
            yield offset, chunk
            offset, last_byte = offset + len(chunk), chunk[-1:]


def without_mark(begin: int, block: bytes) -> tuple[int, bytes]:
    """Take off the byte order mark where a block that starts at byte `begin` has one."""
    if begin == 0 and block.startswith(BYTE_ORDER_MARK):
        return len(BYTE_ORDER_MARK), block[len(BYTE_ORDER_MARK) :]
    return begin, block


def end_of_words(text: bytes, begin: int, end: int) -> int:
    """Return where the last blank of a stretch of text ends, 0 where there is none."""
    return 1 + max(text.rfind(blank, begin, end) for blank in BLANKS)


def place_in_text(part: Part, offset: int, at: int) -> str:
    """Say where byte `at` of a block that starts at `offset` stands in a file."""
    return f"{part}, line {line_number(part.path, offset + at)}, at byte {offset + at}"


def line_number(path: Path, offset: int) -> int:
    """Return the number, from 1, of the line that holds a byte; reads all before it."""
    number = 1
    with open_bytes(path) as file:
        while offset and (chunk := file.read(min(offset, PIECE_BYTES))):
            number += chunk.count(b"\n")
            offset -= len(chunk)
    return number
