"""Text as lines of words, read in bounded pieces.

A line ends at `\\n` and nowhere else; words are separated by ASCII blanks and nothing else, so that
a no-break space or a Unicode line separator inside a word stays inside. That is what `bytes.split`
does and `str.split` does not.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_shards.errors import CorpusError

PIECE_BYTES = 8 << 20
"""How much text is held in memory at a time; a single word may not be longer."""

COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Compression by file suffix; every other file is read as it is."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = b" \t\n\r\v\f"

IS_BLANK = np.zeros(256, dtype=np.bool_)
IS_BLANK[list(BLANKS)] = True
IS_BLANK.setflags(write=False)


def split_words(text: str, *, lowercase: bool = False) -> list[str]:
    """Split a text, a prompt for instance, as the words of a corpus are split."""
    text = text.lower() if lowercase else text
    return [word.decode() for word in text.encode().split()]


def read_pieces(
    path: Path,
    *,
    lowercase: bool = False,
    option: str = "the input files",
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[bytes]:
    """Read a text file, plain or compressed, as checked pieces of about `piece_bytes` bytes.

    A piece ends after a `\\n`, or after another blank inside a line that is longer than a piece; it
    never cuts a word. The last one always ends in `\\n`, also where the file does not.

    Args:
        path: the file; its suffix says how it is compressed (`COMPRESSION`).
        lowercase: whether to lower-case the text.
        option: the option to name in errors, `--train` for instance.
        piece_bytes: the size of a piece.

    Raises:
        CorpusError: the file cannot be read, is empty or truncated, is not UTF-8, holds a NUL byte
            or a word longer than a piece.
    """
    rest = b""
    last_byte = b""
    offset, line = 0, 1
    for chunk in read_chunks(path, option, piece_bytes):
        rest += chunk
        if not last_byte and offset == 0 and len(rest) >= len(BYTE_ORDER_MARK):
            offset = len(BYTE_ORDER_MARK) if rest.startswith(BYTE_ORDER_MARK) else 0
            rest = rest[offset:]
        end = rest.rfind(b"\n") + 1 or 1 + max(rest.rfind(blank) for blank in BLANKS)
        if end:
            piece, rest = rest[:end], rest[end:]
            yield checked_piece(piece, path, option, offset, line, lowercase)
            offset, line, last_byte = offset + end, line + piece.count(b"\n"), piece[-1:]
        elif len(rest) >= piece_bytes:
            raise CorpusError(
                f"{path}, line {line}: {len(rest)} bytes from byte {offset} on hold no blank, "
                f"expected text with words separated by blanks; change {option}"
            )
    if rest:
        yield checked_piece(rest + b"\n", path, option, offset, line, lowercase)
    elif not last_byte:
        raise CorpusError(f"{path} is empty, expected at least one line of text; change {option}")
    elif last_byte != b"\n":
        yield b"\n"


def read_chunks(path: Path, option: str, chunk_bytes: int) -> Iterator[bytes]:
    """Read a file's bytes, decompressed, with every failure as a `CorpusError`."""
    compression = COMPRESSION.get(path.suffix)
    kind = f"{compression} file" if compression else "text file"
    try:
        if not path.exists():
            raise CorpusError(f"{path} does not exist, expected a {kind}; change {option}")
        if path.is_dir():
            raise CorpusError(f"{path} is a folder, expected a {kind}; change {option}")
        with pa.input_stream(str(path), compression=compression) as stream:
            while chunk := stream.read(chunk_bytes):
                yield chunk
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(
            f"{path} cannot be read to its end ({error}), expected a whole and readable {kind}; "
            f"change {option}"
        ) from error


def checked_piece(
    piece: bytes, path: Path, option: str, offset: int, line: int, lowercase: bool
) -> bytes:
    """Return the piece that starts at `offset` in `line`, lower-cased if wanted, or raise."""
    try:
        text = piece.decode()
        at = piece.find(b"\0")
        fault = "a NUL byte"
    except UnicodeDecodeError as error:
        at = error.start
        fault = f"byte 0x{piece[at]:02x}, which is not UTF-8 ({error.reason}),"
    if at >= 0:
        line += piece.count(b"\n", 0, at)
        raise CorpusError(
            f"{path}, line {line}: {fault} at byte {offset + at}, expected UTF-8 text; "
            f"change {option}"
        )
    return text.lower().encode() if lowercase else piece
