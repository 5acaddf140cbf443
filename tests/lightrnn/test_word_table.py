"""A word table is a bijection whatever its shape, and a file of it is whole or refused."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightrnn import WordTable, WordTableError, default_shape
from lightrnn.table import SPARE


@dataclass(frozen=True)
class Cells:
    """Cell numbers of V words in a table of R x C."""

    cell_of_word: list[int]
    num_rows: int
    num_columns: int

    @property
    def table(self) -> WordTable:
        return WordTable.from_cells(self.cell_of_word, self.num_rows, self.num_columns)


@st.composite
def placements(draw: st.DrawFn, min_words: int = 1) -> Cells:
    """Any placement into up to 7 x 7 cells, with any number of spare cells."""
    num_rows, num_columns = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    num_cells = num_rows * num_columns
    num_words = draw(st.integers(min(min_words, num_cells), num_cells))
    return Cells(draw(st.permutations(range(num_cells)))[:num_words], num_rows, num_columns)


def assert_one_line(error: pytest.ExceptionInfo[WordTableError]) -> None:
    assert str(error.value)
    assert "\n" not in str(error.value)


@settings(deadline=None)
@given(placements())
def test_words_and_cells_are_one_to_one(cells: Cells) -> None:
    table = cells.table
    rows, columns = table.row_of_word, table.column_of_word
    assert (rows.astype(int) * cells.num_columns + columns).tolist() == cells.cell_of_word
    assert table.word_at_cell[rows, columns].tolist() == list(range(table.num_words))
    assert (table.word_at_cell != SPARE).sum() == table.num_words == len(cells.cell_of_word)
    assert table.word_at_cell.shape == (cells.num_rows, cells.num_columns)
    assert WordTable(rows, columns, cells.num_rows, cells.num_columns) == table


@settings(deadline=None)
@given(placements())
def test_a_saved_table_comes_back(cells: Cells) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.arrow"
        cells.table.save(path)
        loaded = WordTable.load(path)
    assert loaded == cells.table
    assert loaded.row_of_word.tolist() == cells.table.row_of_word.tolist()
    assert loaded.column_of_word.tolist() == cells.table.column_of_word.tolist()
    assert (loaded.num_rows, loaded.num_columns) == (cells.num_rows, cells.num_columns)


@settings(deadline=None)
@given(placements(min_words=2), st.data())
def test_the_fingerprint_tells_tables_apart(cells: Cells, data: st.DataObject) -> None:
    table = cells.table
    assert cells.table.fingerprint == table.fingerprint
    others = [
        WordTable(table.row_of_word, table.column_of_word, cells.num_rows + 1, cells.num_columns),
        WordTable(table.row_of_word, table.column_of_word, cells.num_rows, cells.num_columns + 1),
    ]
    if table.num_words > 1:
        first, second = data.draw(
            st.lists(st.integers(0, table.num_words - 1), min_size=2, max_size=2, unique=True)
        )
        swapped = list(cells.cell_of_word)
        swapped[first], swapped[second] = swapped[second], swapped[first]
        others.append(WordTable.from_cells(swapped, cells.num_rows, cells.num_columns))
        shorter = cells.cell_of_word[:-1]
        others.append(WordTable.from_cells(shorter, cells.num_rows, cells.num_columns))
    fingerprints = {other.fingerprint for other in others}
    assert len(fingerprints | {table.fingerprint}) == len(others) + 1
    assert all(other != table for other in others)


def test_a_table_is_no_key_and_equals_no_other_thing() -> None:
    table = WordTable.random(3, 2, 2, seed=0)
    assert table != "table"
    with pytest.raises(TypeError, match="unhashable"):
        hash(table)


@settings(deadline=None)
@given(placements(min_words=2), st.data())
def test_two_words_in_one_cell_are_refused(cells: Cells, data: st.DataObject) -> None:
    num_words = len(cells.cell_of_word)
    if num_words < 2:
        return
    pair = st.lists(st.integers(0, num_words - 1), min_size=2, max_size=2, unique=True)
    first, second = sorted(data.draw(pair))
    shared = list(cells.cell_of_word)
    shared[second] = shared[first]
    row, column = divmod(shared[first], cells.num_columns)
    with pytest.raises(
        WordTableError, match=rf"words {first} and {second} share the cell \({row}, {column}\)"
    ) as error:
        WordTable.from_cells(shared, cells.num_rows, cells.num_columns)
    assert_one_line(error)


@settings(deadline=None)
@given(placements(), st.data())
def test_a_cell_outside_is_refused(cells: Cells, data: st.DataObject) -> None:
    word = data.draw(st.integers(0, len(cells.cell_of_word) - 1))
    side = data.draw(st.sampled_from(["row", "column"]))
    size = cells.num_rows if side == "row" else cells.num_columns
    outside = data.draw(st.sampled_from([-1, size, 2**31, 2**32, -(2**32)]))
    rows, columns = (
        values.astype(np.int64) for values in (cells.table.row_of_word, cells.table.column_of_word)
    )
    (rows if side == "row" else columns)[word] = outside
    with pytest.raises(
        WordTableError, match=f"word {word} has {side} {outside}, expected 0 to {size - 1}"
    ) as error:
        WordTable(rows, columns, cells.num_rows, cells.num_columns)
    assert_one_line(error)


@pytest.mark.parametrize("cell", [-1, 6, 2**32, 2**40])
def test_a_cell_number_outside_is_refused(cell: int) -> None:
    with pytest.raises(WordTableError, match="word 1 has row"):
        WordTable.from_cells([0, cell], 2, 3)


@pytest.mark.parametrize("wrong", [0.5, np.nan])
def test_cells_that_are_no_whole_numbers_are_refused(wrong: float) -> None:
    cells = np.array([0.0, wrong])
    with pytest.raises(WordTableError, match=r"float64.*expected whole numbers") as error:
        WordTable(cells, np.array([0, 1]), 2, 2)
    assert_one_line(error)
    with pytest.raises(WordTableError, match="expected whole numbers"):
        WordTable.from_cells(cells, 2, 2)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 7), st.integers(1, 7))
def test_too_small_a_table_is_refused(too_many: int, num_rows: int, num_columns: int) -> None:
    num_words = num_rows * num_columns + too_many
    message = (
        f"{num_words} words do not fit into {num_rows} x {num_columns} = "
        f"{num_rows * num_columns} cells; raise table.num_rows or table.num_columns"
    )
    for make in (
        lambda: WordTable.random(num_words, num_rows, num_columns, seed=0),
        lambda: WordTable.by_frequency(np.ones(num_words), num_rows, num_columns),
        lambda: WordTable.from_cells(np.arange(num_words), num_rows, num_columns),
    ):
        with pytest.raises(WordTableError, match=f"^{re.escape(message)}$"):
            make()


@pytest.mark.parametrize(("num_rows", "num_columns"), [(0, 3), (3, 0), (-2, -3)])
def test_a_table_without_cells_is_refused(num_rows: int, num_columns: int) -> None:
    for make in (
        lambda: WordTable.from_cells([0], num_rows, num_columns),
        lambda: WordTable.random(1, num_rows, num_columns, seed=0),
    ):
        with pytest.raises(WordTableError, match="no cells") as error:
            make()
        assert_one_line(error)


def test_rows_and_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(WordTableError, match=r"shape \(2,\) and column_of_word \(3,\)") as error:
        WordTable(np.array([0, 1]), np.array([0, 1, 2]), 3, 3)
    assert_one_line(error)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    st.integers(1, 7),
    st.sampled_from([np.int64, np.uint64, np.int32, np.uint8, np.float64]),
)
def test_by_frequency_fills_rows_in_order_of_counts(
    counts: list[int], num_columns: int, dtype: type[np.generic]
) -> None:
    num_rows = -(-len(counts) // num_columns)
    table = WordTable.by_frequency(np.array(counts, dtype=dtype), num_rows, num_columns)
    words = table.word_at_cell.ravel().tolist()
    by_count_then_id = sorted(range(len(counts)), key=lambda word: (-counts[word], word))
    assert words == by_count_then_id + [SPARE] * (len(words) - len(counts))


def test_chance_is_the_seeds() -> None:
    tables = [WordTable.random(50, 8, 8, seed) for seed in (0, 0, 1)]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]
    # Words do not just fill the first rows: the spare cells lie anywhere.
    assert (tables[0].word_at_cell.ravel()[:50] == SPARE).any()


@settings(deadline=None)
@given(st.integers(1, 10**6))
def test_the_default_shape_is_the_least_square(num_words: int) -> None:
    num_rows, num_columns = default_shape(num_words)
    assert num_rows == num_columns
    assert (num_rows - 1) ** 2 < num_words <= num_rows**2


def test_a_table_cannot_be_changed() -> None:
    rows, columns = np.array([0, 0, 1]), np.array([0, 1, 0])
    table = WordTable(rows, columns, 2, 2)
    fingerprint = table.fingerprint
    rows[0], columns[2] = 1, 1
    assert table.row_of_word.tolist() == [0, 0, 1]
    assert table.column_of_word.tolist() == [0, 1, 0]
    for values in (table.row_of_word, table.column_of_word, table.word_at_cell):
        assert values.dtype == np.int32
        with pytest.raises(ValueError, match="read-only"):
            values[...] = 0
    with pytest.raises(AttributeError):
        table.num_rows = 3  # type: ignore[misc]
    assert WordTable.from_cells([0, 1, 2], 2, 2).fingerprint == fingerprint


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, WordTable]:
    table = WordTable.random(7, 3, 4, seed=1)
    path = tmp_path_factory.mktemp("table") / "table.arrow"
    table.save(path)
    return path, path.read_bytes(), table


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_truncated_file_is_refused(
    saved: tuple[Path, bytes, WordTable], data: st.DataObject
) -> None:
    path, content, _ = saved
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(WordTableError, match=re.escape(str(path))) as error:
        WordTable.load(path)
    assert_one_line(error)


def test_a_flipped_bit_anywhere_is_refused_or_does_not_matter(
    saved: tuple[Path, bytes, WordTable],
) -> None:
    path, content, table = saved
    messages = []
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            assert WordTable.load(path) == table
        except WordTableError as error:
            messages.append(str(error))
    assert len(messages) > len(content) // 4
    assert not any("\n" in message for message in messages)


def test_a_swap_in_the_file_is_found_by_the_fingerprint(tmp_path: Path) -> None:
    table, path = WordTable.from_cells([0, 1, 2], 2, 2), tmp_path / "table.arrow"
    table.save(path)
    good = pa.ipc.open_file(path).read_all()
    swapped = good.take([1, 0, 2]).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, good.schema) as writer:
        writer.write_table(swapped)
    with pytest.raises(WordTableError, match="damaged: its cells do not match") as error:
        WordTable.load(path)
    assert_one_line(error)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.arrow"
    with pytest.raises(WordTableError, match="cannot be read as a word table") as error:
        WordTable.load(path)
    assert_one_line(error)
    other = pa.table({"token": [1, 2, 3]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(WordTableError, match=r"columns \['token'\]") as error:
        WordTable.load(path)
    assert_one_line(error)
