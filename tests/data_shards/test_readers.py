"""Shards are plain Arrow files: other libraries read them as they are."""

import pyarrow.dataset
import pytest

ROWS = ["the cat sat <eos>", "<eos>", "the dog sat on the mat <eos>", "zebra apple cat <eos>"]


@pytest.fixture
def files(small_corpus):
    return [str(path) for path in sorted((small_corpus.path / "train").glob("*.arrow"))]


@pytest.fixture
def expected(small_corpus):
    return [small_corpus.vocabulary.encode(row.split()).tolist() for row in ROWS]


def test_hugging_face_datasets(files, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(
        "arrow", data_files={"train": files}, cache_dir=str(tmp_path / "cache")
    )
    assert loaded["train"]["input_ids"][:] == expected


def test_polars(files, expected):
    polars = pytest.importorskip("polars")
    frame = polars.concat([polars.read_ipc(file) for file in files])
    assert frame["input_ids"].to_list() == expected


def test_duckdb(files, expected):
    duckdb = pytest.importorskip("duckdb")
    shards = pyarrow.dataset.dataset(files, format="ipc")
    connection = duckdb.connect()
    connection.register("shards", shards)
    rows = connection.execute("select input_ids, len(input_ids) from shards").fetchall()
    assert rows == [(row, len(row)) for row in expected]
