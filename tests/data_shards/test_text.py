import bz2
import gzip
import lzma
import os

import pyarrow as pa
import pytest

from data_shards import CorpusError, words_of
from data_shards.sources import PIECE_BYTES, TextOptions, plan_spans
from data_shards.sources import read_pieces as read_span


def read_pieces(path, option="the input files", piece_bytes=PIECE_BYTES, **settings):
    """Read a file as one span and give the text of its pieces."""
    options = TextOptions(**settings)
    for span in plan_spans([path], option, options, span_bytes=2**40):
        for piece in read_span(span, options, option, piece_bytes):
            assert not piece.records
            yield piece.text


def lines_of(path, **settings):
    """Put the pieces together again: words by line, as `bytes.split` sees them."""
    return [line.split() for line in b"".join(read_pieces(path, **settings)).split(b"\n")[:-1]]


def zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def test_only_newlines_end_lines_and_only_ascii_blanks_end_words(write):
    path = write("a.txt", "a\u2028b c\u00a0d\x85e\x1cf\r\n\tg  h")
    assert lines_of(path) == [["a\u2028b".encode(), "c\u00a0d\x85e\x1cf".encode()], [b"g", b"h"]]
    assert words_of("A\u2028b  C", TextOptions(lowercase=True)) == ["a\u2028b", "c"]


def test_byte_order_mark_is_dropped_at_the_start_only(write):
    assert lines_of(write("a.txt", "\ufeffa\n\ufeffb\n")) == [[b"a"], ["\ufeffb".encode()]]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_read_like_plain_ones(write, suffix):
    compress = COMPRESS[suffix]
    path = write(f"a.txt{suffix}", compress(b"a b\nc") + compress(b"d\n"))
    assert lines_of(path) == [[b"a", b"b"], [b"cd"]]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_truncated_compressed_file(write, suffix, fails):
    content = COMPRESS[suffix](os.urandom(5000).hex().encode() + b"\nmore\n")
    for kept in (len(content) // 2, len(content) - 2):
        with fails("a.txt" + suffix, "cannot be read to its end", "change --train"):
            list(read_pieces(write("a.txt" + suffix, content[:kept]), option="--train"))


@pytest.mark.parametrize("piece_bytes", [4, 5, 7, 64, 1000])
def test_pieces_never_cut_words_nor_lose_lines(write, piece_bytes):
    text = "ab cd ef gh\n\nΣάς x\n" + "long " * 20 + "\nend"
    path = write("a.txt", text)
    pieces = list(read_pieces(path, piece_bytes=max(piece_bytes, 8)))
    assert b"".join(pieces) == text.encode() + b"\n"
    assert all(piece[-1:] in b" \n" for piece in pieces)
    assert lines_of(path, piece_bytes=8, lowercase=True)[2] == ["σάς".encode(), b"x"]


def test_unfinished_long_line_is_finished(write):
    assert b"".join(read_pieces(write("a.txt", "aa bb "), piece_bytes=3)) == b"aa bb \n"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["is empty"]),
        (b"\xef\xbb\xbf", ["is empty"]),
        (b"ok\n\nab \xff\n", ["line 3", "0xff", "at byte 7"]),
        (b"\xef\xbb\xbfok\n\xc3", ["line 2", "at byte 6"]),
        (b"ok\nb\0c\n", ["line 2", "NUL", "at byte 4"]),
        (b"ok\n" + b"x" * 50, ["line 2", "no blank"]),
    ],
)
def test_text_that_cannot_be_used(write, fails, content, parts):
    with fails("a.txt", *parts, "change --valid"):
        list(read_pieces(write("a.txt", content), option="--valid", piece_bytes=16))


def test_position_in_later_pieces(write, fails):
    with fails("line 101", "at byte 400"):
        list(read_pieces(write("a.txt", b"abc\n" * 100 + b"\xff\n"), piece_bytes=16))


def test_files_that_are_none(tmp_path, fails, write):
    with fails("does not exist", "change --test"):
        list(read_pieces(tmp_path / "none", option="--test"))
    with fails("holds no files that end in .txt"):
        list(read_pieces(tmp_path))
    with fails("cannot be read to its end"):
        list(read_pieces(write("a.gz", b"plain text\n")))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file_and_folder(write, fails):
    path = write("a.txt", "a\n")
    path.chmod(0)
    with fails("a.txt", "ermission denied", "change --train"):
        list(read_pieces(path, option="--train"))
    path.parent.chmod(0)
    try:
        with fails("a.txt", "ermission denied", "change --train"):
            list(read_pieces(path, option="--train"))
    finally:
        path.parent.chmod(0o700)


def test_errors_are_one_line_whatever_they_quote(fails):
    with fails("one two three"):
        raise CorpusError("one\ntwo\r\n  three\n")
