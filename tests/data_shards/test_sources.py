"""Plans of spans, and plain text read by them."""

import gzip
import io
import os
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from data_shards.sources import Span, TextOptions, plan_spans, read_pieces
from data_shards.text import read_text

OPTIONS = TextOptions()


def plan(*inputs, span_bytes=1000, **settings):
    return plan_spans(inputs, "--train", OPTIONS, span_bytes, **settings)


def text_of(spans, options=OPTIONS, **settings):
    pieces = (
        piece for span in spans for piece in read_pieces(span, options, "--train", **settings)
    )
    return b"".join(piece.text for piece in pieces)


def names_of(spans):
    return [part.path.name for span in spans for part in span.parts]


LINES = st.lists(
    st.text(st.sampled_from("aé€😀 \t\r"), max_size=6) | st.just("long é " * 20), max_size=8
)


@given(LINES, st.booleans(), st.integers(1, 40), st.integers(30, 300), st.booleans())
def test_any_cut_into_spans_gives_the_same_text(tmp_path_factory, lines, ends, size, piece, mark):
    path = tmp_path_factory.getbasetemp() / "cut.txt"
    text = ("\n".join(lines) + "\n" * ends) or "a"
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    spans = plan(path, span_bytes=size)
    assert text_of(spans, piece_bytes=piece).decode() == text.removesuffix("\n") + "\n"
    assert len(spans) == -(-path.stat().st_size // size)
    assert sum(span.num_bytes for span in spans) == path.stat().st_size


def test_a_line_belongs_to_the_stretch_it_starts_in(write):
    spans = plan(write("a.txt", "abc\ndef\n\n" + "x" * 20 + "\ny"), span_bytes=4)
    assert [text_of([span]).decode() for span in spans] == [
        "abc\n",
        "def\n",
        "\n" + "x" * 20 + "\n",
        "",
        "",
        "",
        "",
        "y\n",
    ]


def test_errors_in_a_stretch_tell_line_and_byte_of_the_file(write, fails):
    spans = plan(write("a.txt", b"abc\n" * 100 + b"ab\xff\n"), span_bytes=50)
    with fails("a.txt, line 101, at byte 402", "0xff", "--train", "--on-bad-bytes replace"):
        text_of(spans[-1:])
    spans = plan(write("b.txt", b"abc\n" * 100 + b"x" * 90), span_bytes=250)
    with fails("b.txt, line 101: 40 bytes from byte 400 on hold no blank", "--train"):
        text_of(spans[-1:], piece_bytes=32)


def test_bad_bytes_are_replaced_alike_however_the_text_is_cut(write):
    path = write("a.txt", b"a\xff\xfeb \xe2\x82\n\0c\xf0\x9f\x98\n" * 9)
    options = TextOptions(on_bad_bytes="replace")
    expected = "a\ufffd\ufffdb \ufffd\n\ufffdc\ufffd\n" * 9
    for size in (1, 7, 1000):
        assert text_of(plan(path, span_bytes=size), options, piece_bytes=8).decode() == expected


def test_small_files_share_a_span_and_large_ones_are_cut(write, tmp_path):
    for name, size in (("a", 30), ("b", 40), ("c", 50), ("d", 330), ("e", 10)):
        write(f"{name}.txt", "x" * (size - 1) + "\n")
    spans = plan(tmp_path, span_bytes=100)
    assert ["".join(part.path.stem for part in span.parts) for span in spans] == [
        *("ab", "c", "d", "d", "d", "de")
    ]
    assert [span.num_bytes for span in spans] == [70, 50, 82, 83, 82, 93]
    assert all(isinstance(part.stop, int) for span in spans[2:5] for part in span.parts)
    packed = write("packed.gz", gzip.compress(os.urandom(5000).hex().encode()))
    assert [(part.start, part.stop) for part in plan(packed)[0].parts] == [(0, None)]


def test_small_files_share_a_piece(write):
    spans = plan(write("a.txt", "a"), write("b.txt", "b\n"), write("c.jsonl", '{"text": "c"}'))
    pieces = list(read_pieces(spans[0], OPTIONS, "--train"))
    assert [(piece.text, piece.records) for piece in pieces] == [(b"a\nb\n", False), (b"c\n", True)]


def test_folders_are_read_in_order_without_hidden_and_unknown_files(tmp_path):
    for name in ("b/2.txt", "b/10.TXT.gz", "a.jsonl", "c.parquet", ".x/a.txt", "b/.a.txt", "b.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names_of(plan(tmp_path)) == ["a.jsonl", "10.TXT.gz", "2.txt", "c.parquet"]


def test_patterns(tmp_path, fails):
    for name in ("b/2.txt", "b/1.en", "a.txt", ".x/a.txt", "b/[1].txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names_of(plan(f"{tmp_path}/**/*.txt")) == ["a.txt", "2.txt", "[1].txt"]
    assert names_of(plan(f"{tmp_path}/**")) == ["a.txt", "1.en", "2.txt", "[1].txt"]
    assert names_of(plan(tmp_path / "b" / "[1].txt")) == ["[1].txt"]  # a file of this name
    assert names_of(plan(tmp_path / "a.txt", tmp_path / "a.txt")) == ["a.txt", "a.txt"]
    with fails("*.gz matches nothing", "change --train"):
        plan(f"{tmp_path}/*.gz")
    with fails("b* matches folders only", "change --train"):
        plan(f"{tmp_path}/b*")


def test_standard_input_is_kept_in_a_file(tmp_path, monkeypatch, fails):
    given = SimpleNamespace(buffer=io.BytesIO(b"a b\nc\n"))
    monkeypatch.setattr(sys, "stdin", given)
    spans = plan("-", spool=tmp_path)
    assert text_of(spans) == text_of(spans) == b"a b\nc\n"
    assert names_of(spans) == ["standard-input-train"]
    with fails("standard-input-valid is empty"):
        plan_spans(["-"], "--valid", OPTIONS, 10, spool=tmp_path)
    with fails("standard input was given without a folder", "change --train"):
        plan(Path("-"))


def test_inputs_that_cannot_be(write, tmp_path, fails):
    with fails("none.txt does not exist", "change --train"):
        plan(tmp_path / "none.txt")
    with fails("a.txt is empty", "change --train"):
        plan(write("a.txt", ""))
    (tmp_path / "folder").mkdir()
    with fails("folder holds no files that end in .txt", "a pattern such as", "--train"):
        plan(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with fails("pipe is neither a file nor a folder", "--train -"):
        plan(tmp_path / "pipe")
    with fails("a.parquet.gz is compressed as a whole", "change --train"):
        plan(write("a.parquet.gz", "x"))
    with fails("found dict of the splits train, test, expected", "change --train"):
        plan({"train": 1, "test": 2})
    with fails("span_bytes=0"):
        plan(tmp_path, span_bytes=0)


def test_a_span_knows_its_files_and_notices_a_change(write, fails):
    path = write("a.txt", "a b\n" * 10)
    first, *_, last = plan(path, span_bytes=10)
    assert plan(path, span_bytes=10)[0].identity == first.identity != last.identity
    assert pickle.loads(pickle.dumps(first)) == first
    assert isinstance(first, Span)
    path.write_text("a c\n" * 10)
    os.utime(path, ns=(0, first.parts[0].mtime_ns + 1))
    with fails("a.txt changed while it was read", "--train"):
        text_of([first])
    assert plan(path, span_bytes=10)[0].identity != first.identity


def test_reading_in_parallel_needs_no_more_than_the_span(write, monkeypatch):
    path = write("a.txt", "a b\n" * 1000)
    span = plan(path, span_bytes=100)[20]
    monkeypatch.setattr("data_shards.text.line_number", None)  # nothing before it is read
    pieces = list(read_text(span.parts[0], OPTIONS, "--train"))
    assert len(pieces) == 1
    assert len(pieces[0].text) in (96, 100, 104)
