"""Records of every format: the same words in the same rows as from plain text."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards.sources import TextOptions, plan_spans, read_pieces

TEXTS = ["The cat sat.", "", 'x,y\t"q" don\'t', "two\nlines", "Ünïcode 東京\r\n", "  a  ", "last"]
ROWS = [text.split() for text in TEXTS]

PLAIN = TextOptions()


def rows_of(given, options=PLAIN, option="--train", span_bytes=2**30, piece_bytes=2**20):
    """Return the words of each row, and check that pieces are what they have to be."""
    inputs = given if isinstance(given, list) else [given]
    text = b""
    for span in plan_spans(inputs, option, options, span_bytes):
        span = pickle.loads(pickle.dumps(span))
        for piece in read_pieces(span, options, option, piece_bytes):
            assert piece.records
            assert piece.text[-1:].isspace()
            text += piece.text
    assert text[-1:] == b"\n"
    return [[word.decode() for word in line.split()] for line in text.split(b"\n")[:-1]]


def json_lines(texts, name="text"):
    lines = []
    for number, text in enumerate(texts):
        other = {"number": number} if number % 2 else {"number": [str(number)], "more": None}
        lines.append(json.dumps({**other, name: text}, ensure_ascii=bool(number % 3)))
    return "\n".join(lines) + "\n"


def csv_text(texts, delimiter=","):
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter)
    writer.writerow(["number", "text"])
    writer.writerows(enumerate(texts))
    return sink.getvalue()


def write_stream(table, path, **settings):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, **settings)


def write_arrow(table, path, **settings):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, **settings)


TABLE_WRITERS = {
    "a.parquet": lambda table, path: pq.write_table(table, path, row_group_size=2),
    "a.arrow": lambda table, path: write_arrow(table, path, max_chunksize=2),
    "stream.arrow": lambda table, path: write_stream(table, path, max_chunksize=2),
}


@pytest.fixture
def write_all(write, tmp_path):
    """Return a function that writes texts in every format and gives the paths."""

    def write_files(texts):
        paths = [
            write("a.jsonl", json_lines(texts)),
            write("b.ndjson.xz", lzma.compress(json_lines(texts).encode())),
            write("c.json.gz", gzip.compress(json_lines(texts).encode())),
            write("a.csv", csv_text(texts)),
            write("a.tsv.bz2", bz2.compress(csv_text(texts, "\t").encode())),
        ]
        table = pa.table({"number": range(len(texts)), "text": texts})
        for name, write_table in TABLE_WRITERS.items():
            write_table(table, tmp_path / name)
            paths.append(tmp_path / name)
        return paths

    return write_files


@pytest.mark.parametrize("span_bytes", [40, 2**30])
@pytest.mark.parametrize("piece_bytes", [20, 2**20])
def test_every_format_gives_the_same_rows(write_all, span_bytes, piece_bytes):
    for path in write_all(TEXTS):
        found = rows_of(path, span_bytes=span_bytes, piece_bytes=piece_bytes)
        assert found == ROWS, path


def test_every_format_reads_as_plain_text_does(write, write_all):
    lines = ["The 'cat' sat on 1,000 mats.", "", "Él dijo: ¡no!"] * 5
    for options in (TextOptions("word", lowercase=True), TextOptions(normalize="nfc")):
        spans = plan_spans([write("a.txt", "\n".join(lines))], "--train", options, 2**20)
        plain = b"".join(piece.text for piece in read_pieces(spans[0], options, "--train"))
        expected = [[word.decode() for word in line.split()] for line in plain.split(b"\n")[:-1]]
        for path in write_all(lines):
            assert rows_of(path, options) == expected, path


@given(
    st.lists(st.text(st.sampled_from("ab\n\v\r 東"), max_size=8), min_size=1), st.integers(9, 60)
)
def test_lines_inside_records_do_not_end_rows(tmp_path_factory, texts, span_bytes):
    path = tmp_path_factory.getbasetemp() / "records.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    content = b""
    for span in plan_spans([path], "--train", PLAIN, span_bytes):
        content += b"".join(p.text for p in read_pieces(span, PLAIN, "--train", piece_bytes=40))
    rows = content.decode().split("\n")[:-1]
    lines = [text.replace("\v", " ").removesuffix("\n").split("\n") for text in texts]
    assert [row.split("\v") for row in rows] == lines


@pytest.mark.parametrize("tokenizer", ["whitespace", "word"])
@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ([["don't!", "New\u00a0York"], [], ["東京"]], [["don't!", "New\u00a0York"], [], ["東京"]]),
        ([[3, -5], [], [2**40]], [["3", "-5"], [], [str(2**40)]]),
        ([7, 0, -1], [["7"], ["0"], ["-1"]]),
    ],
)
def test_words_and_numbers_given_by_themselves(write, tmp_path, values, rows, tokenizer):
    paths = [write("a.jsonl", json_lines(values, "items"))]
    for name, write_table in TABLE_WRITERS.items():
        write_table(pa.table({"items": values}), tmp_path / name)
        paths.append(tmp_path / name)
    for path in paths:
        for span_bytes in (50, 2**30):
            options = TextOptions(tokenizer, column="items")
            assert rows_of(path, options, span_bytes=span_bytes) == rows, path


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.list_(pa.large_string()),
        pa.large_list(pa.string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_(pa.uint8()),
        pa.list_(pa.int64(), 2),
    ],
)
def test_types_of_arrow(tmp_path, kind):
    if pa.types.is_nested(kind):
        values = (
            [[1, 2], [3, 4]] if pa.types.is_integer(kind.value_type) else [["1", "2"], ["3", "4"]]
        )
    else:
        values = ["1 2", "3 4"]
    array = pa.array(values, kind if not pa.types.is_dictionary(kind) else pa.string()).cast(kind)
    write_stream(pa.table({"text": array}), tmp_path / "a.arrow")
    assert rows_of(tmp_path / "a.arrow", piece_bytes=6) == [["1", "2"], ["3", "4"]]


def test_a_type_may_vary_from_line_to_line_of_json(write):
    lines = [{"text": "a b"}, {"text": 5}, {"text": ["c", "d"]}, {"text": [1, 2]}, {"text": []}]
    path = write("a.jsonl", "\n \r\n".join(map(json.dumps, lines)))
    assert rows_of(path) == [["a", "b"], ["5"], ["c", "d"], ["1", "2"], []]


def test_fields_of_structures(write, tmp_path):
    records = [{"translation": {"en": "a b", "de": "c"}}, {"translation": {"en": "", "de": "d"}}]
    paths = [write("a.jsonl", "\n".join(map(json.dumps, records)))]
    for name, write_table in TABLE_WRITERS.items():
        write_table(pa.Table.from_pylist(records), tmp_path / name)
        paths.append(tmp_path / name)
    for path in paths:
        assert rows_of(path, TextOptions(column="translation.en")) == [["a", "b"], []]
        assert rows_of(path, TextOptions(column="translation.de")) == [["c"], ["d"]]


def test_the_only_column_is_the_one(write, tmp_path):
    pq.write_table(pa.table({"body": ["a b"]}), tmp_path / "a.parquet")
    paths = [
        tmp_path / "a.parquet",
        write("a.csv", "body\na b\n"),
        write("a.jsonl", '{"body": "a b"}'),
    ]
    assert rows_of(paths) == [["a", "b"]] * 3


def test_columns_that_are_not_there(write, write_all, tmp_path, fails):
    for path in write_all(TEXTS):
        with fails(path.name, "body", "--column"):
            rows_of(path, TextOptions(column="body"))
        with fails(path.name, "text.body", "--column"):
            rows_of(path, TextOptions(column="text.body"))
    pq.write_table(pa.table({"id": [1], "body": ["a"]}), tmp_path / "b.parquet")
    for path in (
        tmp_path / "b.parquet",
        write("b.csv", "id,body\n1,a\n"),
        write("b.jsonl", '{"id": 1, "body": "a"}'),
    ):
        with fails(path.name, "the columns id, body", "expected one named text", "--column"):
            rows_of(path)
    with fails("b.csv has the columns text, text"):
        rows_of(write("b.csv", "text,text\na,b\n"))


def test_records_that_cannot_be_words(write, tmp_path, fails):
    cases = [
        (["a", None], "is null"),
        ([["a"], None], "is null"),
        ([["a"], ["b", None]], "holds null"),
        ([["a"], ["b", ""]], "the word ''"),
        ([["a"], ["b c"]], "the word 'b c'"),
        ([["a", "b"], ["c", "\v"]], "the word '\\x0b'"),
        (["a", "b\0"], "NUL"),
        ([[1], None], "is null"),
        ([0, None], "is null"),
    ]
    for values, part in cases:
        paths = [(write("a.jsonl", json_lines(values)), "line 2")]
        for name, write_table in TABLE_WRITERS.items():
            write_table(pa.table({"text": values}), tmp_path / name)
            paths.append((tmp_path / name, "row 2"))
        for path, place in paths:
            for piece_bytes in (4, 1000):
                with fails(path.name, place, part, "change --valid"):
                    rows_of(path, option="--valid", piece_bytes=piece_bytes)
    for values in ([1.5, 2.5], [{"a": 1}], [[[1]]], [True]):
        pq.write_table(pa.table({"text": values}), tmp_path / "a.parquet")
        with fails("a.parquet, row 1 is of the type", "expected text, integers", "--column"):
            rows_of(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a b", "x" * 99]}), tmp_path / "a.parquet")
    with fails("a.parquet, row 2: 16 bytes hold no blank"):
        rows_of(tmp_path / "a.parquet", piece_bytes=16)


def test_rows_are_counted_from_the_start_of_the_file(tmp_path, fails):
    for name, write_table in TABLE_WRITERS.items():
        write_table(pa.table({"text": ["word"] * 98 + [None] + ["word"]}), tmp_path / name)
        spans = plan_spans([tmp_path / name], "--train", PLAIN, 100)
        assert len(spans) > 5
        with fails(f"{name}, row 99 is null"):
            list(read_pieces(spans[-1], PLAIN, "--train"))


def test_bad_characters_of_records(tmp_path, write, fails):
    bad = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\5\0\0\0"), pa.py_buffer(b"ab\xff\0c")],
    )
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    write_arrow(pa.table({"text": bad}), tmp_path / "a.arrow")
    replaced = [["a"], ["b\ufffd\ufffdc"]]
    for name in ("a.parquet", "a.arrow"):
        with fails(f"{name}, row 2", "NUL", "--on-bad-bytes replace"):
            rows_of(tmp_path / name)
        assert rows_of(tmp_path / name, TextOptions(on_bad_bytes="replace")) == replaced
    path = write("a.jsonl", b'{"text": "a"}\n\n{"text": "b\xff\\u0000c"}\n')
    with fails("a.jsonl, line 3, at byte 26: byte 0xff", "--on-bad-bytes replace"):
        rows_of(path)
    assert rows_of(path, TextOptions(on_bad_bytes="replace")) == replaced
    path = write("b.jsonl", '{"text": "a"}\n{"text": "b\\ud800c"}\n{"text": ["d\\udc00"]}\n')
    with fails("b.jsonl, line 2 holds", "\\ud800"):
        rows_of(path)
    options = TextOptions(on_bad_bytes="replace")
    assert rows_of(path, options) == [["a"], ["b\ufffdc"], ["d\ufffd"]]
    path = write("a.csv", b"text\na\nb\xff\n")
    with fails("a.csv, line 3, at byte 8"):
        rows_of(path)
    assert rows_of(path, TextOptions(on_bad_bytes="replace")) == [["a"], ["b\ufffd"]]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"text": "a"}\n{"text": "b"\n', ["line 2 is not JSON", "at character 13"]),
        ('{"text": "a"}\n\n["text"]\n', ["line 3 holds a JSON list"]),
        ('[\n{"text": "a"}\n]\n', ["line 1 is not JSON"]),
        ('{"text": "a"}\n{"other": 1}\n', ["line 2 has no 'text'", "--column"]),
        ('{"text": "a"}\n{"text": 1.5}\n', ["line 2 holds 1.5", "--column"]),
        ('{"text": "a"}\n{"text": [1, "b"]}\n', ["line 2 holds [1, 'b']"]),
        ('{"text": "a"}\n{"text": true}\n', ["line 2 holds True"]),
        (f'{{"text": "a"}}\n{{"text": {2**70}}}\n', ["line 2 holds 1180", "below 2**63"]),
        ('{"text": "a"}\n' + '{"text":' * 100_000, ["line 2 is not JSON", "recursion"]),
        ("\ufeff", ["is empty"]),
    ],
)
def test_json_lines_that_cannot_be(write, fails, content, parts):
    with fails("a.jsonl", *parts, "change"):
        rows_of(write("a.jsonl", content))


def test_lines_of_json_are_counted_from_the_start_of_the_file(write, fails):
    path = write("a.jsonl", '{"id": 1, "text": "a"}\n' * 50 + '{"id": 1}\n')
    spans = plan_spans([path], "--train", PLAIN, 100)
    with fails("a.jsonl, line 51 has no 'text'"):
        list(read_pieces(spans[-1], PLAIN, "--train"))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("id,text\n1,a\n2\n", ["line 3: a row of 1 cells, expected 2"]),
        ("id,text\n1,a,b\n", ["line 2: a row of 3 cells, expected 2"]),
        ('id,text\n1,"a\n2,b\n', ["no row of CSV", "unexpected end of data"]),
        ('id,text\n1,"a"b\n', ["line 2: no row of CSV"]),
        ("\ufeff", ["is empty"]),
    ],
)
def test_csv_that_cannot_be(write, fails, content, parts):
    with fails("a.csv", *parts, "change --train"):
        rows_of(write("a.csv", content))


def test_csv_as_spreadsheets_write_it(write):
    assert rows_of(write("a.csv", '\ufeffid,text\r\n1,"a\r\nb"\r\n\r\n2,\r\n3,c')) == [
        *(["a", "b"], [], ["c"])
    ]
    long = "word " * 50_000
    assert rows_of(write("a.csv", f'text\n"{long}"\n')) == [long.split()]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow", "b.jsonl.xz", "a.csv.gz"])
@pytest.mark.parametrize("span_bytes", [50, 2**30])
def test_damaged_files(write, tmp_path, name, span_bytes, fails):
    texts = [str(number) * 50 for number in range(100)]
    if name in TABLE_WRITERS:
        TABLE_WRITERS[name](pa.table({"text": texts}), tmp_path / name)
    else:
        compress = lzma.compress if name.endswith("xz") else gzip.compress
        content = csv_text(texts) if ".csv" in name else json_lines(texts)
        write(name, compress(content.encode()))
    content = (tmp_path / name).read_bytes()
    write(name, content[: len(content) // 2])
    with fails(name, "cannot be read to its end", "change --train"):
        rows_of(tmp_path / name, span_bytes=span_bytes)
    write(name, "no such file\n" * 9)
    with fails(name, "change --train"):
        rows_of(tmp_path / name, span_bytes=span_bytes)


def test_tables_without_rows_have_no_text(tmp_path, write):
    (span,) = plan_spans([write("a.jsonl", "\n \n")], "--train", PLAIN, 10)
    assert list(read_pieces(span, PLAIN, "--train")) == []
    for name, write_table in TABLE_WRITERS.items():
        write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / name)
        (span,) = plan_spans([tmp_path / name], "--train", PLAIN, 10)
        assert list(read_pieces(span, PLAIN, "--train")) == []


class TestDatasets:
    @pytest.fixture
    def datasets(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        return datasets

    @pytest.fixture
    def dataset(self, datasets):
        return datasets.Dataset.from_dict({"number": range(len(TEXTS)), "text": TEXTS})

    @pytest.mark.parametrize("span_bytes", [30, 2**30])
    def test_objects(self, dataset, span_bytes):
        assert rows_of(dataset, span_bytes=span_bytes) == ROWS
        assert rows_of(dataset.with_format("torch"), span_bytes=span_bytes) == ROWS
        backwards = dataset.select(range(len(TEXTS) - 1, -1, -1))
        assert rows_of(backwards, span_bytes=span_bytes) == ROWS[::-1]
        numbers = rows_of(dataset, TextOptions(column="number"), span_bytes=span_bytes)
        assert numbers == [[str(number)] for number in range(len(TEXTS))]

    def test_spans_of_objects(self, datasets, tmp_path):
        dataset = datasets.Dataset.from_dict({"text": [f"row {n} " * 9 for n in range(1000)]})
        spans = plan_spans([dataset], "--train", PLAIN, 10_000)
        assert len(spans) > 5
        assert len({span.identity for span in spans}) == len(spans)
        assert max(len(pickle.dumps(span)) for span in spans) < 20_000
        again = plan_spans([dataset], "--train", PLAIN, 10_000)
        assert [span.identity for span in again] == [span.identity for span in spans]
        assert len(rows_of(dataset, span_bytes=10_000)) == 1000

    @pytest.mark.parametrize("span_bytes", [30, 2**30])
    def test_saved_folders(self, dataset, tmp_path, span_bytes):
        dataset.save_to_disk(tmp_path / "data" / "one", num_shards=2)
        assert rows_of(tmp_path / "data" / "one", span_bytes=span_bytes) == ROWS
        assert rows_of(tmp_path / "data", span_bytes=span_bytes) == ROWS

    def test_errors(self, datasets, dataset, tmp_path, fails):
        splits = datasets.DatasetDict({"train": dataset, "test": dataset})
        splits.save_to_disk(tmp_path / "data")
        with fails("data holds the splits train, test", f"give --train {tmp_path / 'data/train'}"):
            rows_of(tmp_path / "data")
        with fails("found DatasetDict of the splits train, test", "change --train"):
            rows_of(splits)
        with fails("found IterableDataset, expected", "change --train"):
            rows_of(dataset.to_iterable_dataset())
        with fails("has no rows"):
            rows_of(dataset.select([]))
        with fails("has the columns number, text, expected one named body"):
            rows_of(dataset, TextOptions(column="body"))
        nulls = datasets.Dataset.from_dict({"text": ["a", "b", None]})
        with fails("dataset ", "row 3 is null"):
            rows_of(nulls, span_bytes=2)
        (tmp_path / "data" / "train" / "state.json").write_text("{")
        with fails("train cannot be read", "change --train"):
            rows_of(tmp_path / "data" / "train")
