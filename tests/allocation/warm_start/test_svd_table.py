"""First tables from the text: deterministic, complete, and better than chance."""

import numpy as np
import pytest
from distributed import run_distributed
from warm_start_texts import ArrayTokens, Text, text_of_kinds, the_communicator, zipf_text

from allocation import SingleProcess
from allocation.warm_start import svd_table
from allocation.warm_start.placement import place_words
from lightrnn import LightRNNError, WordTable


def table_of(text: Text, num_words: int, num_rows: int, num_columns: int, seed: int = 1):
    counts = np.bincount(text, minlength=num_words)
    return svd_table(ArrayTokens(text), counts, num_rows, num_columns, seed, SingleProcess())


def share_of_likes(table: WordTable, num_kinds: int) -> float:
    """Return how often two words of a row, or of a column, are of the same kind."""
    kinds = np.arange(table.num_words) % num_kinds
    same = []
    for lines in (table.row_of_word, table.column_of_word):
        alike = lines[:, None] == lines
        np.fill_diagonal(alike, val=False)
        same.append((kinds[:, None] == kinds)[alike].mean())
    return max(same)


@pytest.mark.parametrize(
    ("num_words", "num_rows", "num_columns", "num_tokens"),
    [(1, 1, 1, 30), (2, 2, 2, 5), (5, 3, 3, 40), (50, 5, 10, 2000), (50, 9, 9, 300), (9, 3, 3, 1)],
)
def test_every_word_has_a_cell_of_its_own(
    num_words: int, num_rows: int, num_columns: int, num_tokens: int
) -> None:
    text = zipf_text(num_words, num_tokens, seed=3)
    table = table_of(text, num_words, num_rows, num_columns)
    assert (table.num_words, table.num_rows, table.num_columns) == (
        num_words,
        num_rows,
        num_columns,
    )
    assert table == table_of(text, num_words, num_rows, num_columns)


def test_words_of_a_kind_come_together() -> None:
    text = text_of_kinds(num_kinds=20, words_per_kind=20, num_tokens=60_000, seed=2)
    assert share_of_likes(WordTable.random(400, 20, 20, 1), 20) < 0.08
    assert share_of_likes(table_of(text, 400, 20, 20), 20) > 0.25


def test_any_number_of_processes_makes_the_same_table() -> None:
    text = text_of_kinds(num_kinds=8, words_per_kind=9, num_tokens=9000, seed=5)
    counts = np.bincount(text, minlength=80)

    def make() -> WordTable:
        return svd_table(ArrayTokens(text), counts, 9, 9, 7, the_communicator())

    alone = run_distributed(make, 1)[0]
    for world_size in (2, 3):
        assert run_distributed(make, world_size) == [alone] * world_size


def test_a_table_without_room_is_refused() -> None:
    with pytest.raises(LightRNNError, match="10 words"):
        table_of(zipf_text(10, 100, seed=1), 10, 3, 3)


def test_sweeps_never_raise_the_error_and_find_sums_of_lines() -> None:
    random = np.random.default_rng(0)
    rows, columns = random.standard_normal((2, 7, 12)).astype(np.float32)
    vectors = (10 * rows[:, None] + columns).reshape(49, 12)
    lines: list[str] = []
    weights = np.ones(49, np.float32)
    place_words(vectors, weights, WordTable.random(49, 7, 7, 3), lines.append)
    shares = [float(line.split()[4]) for line in lines]
    assert shares == sorted(shares, reverse=True)
    # By chance, row and column vectors take up 12 of 48 degrees of freedom: 75 % are left over.
    assert shares[-1] < 40


def test_words_that_weigh_nothing_are_placed_too() -> None:
    vectors = np.zeros((6, 4), np.float32)
    table = place_words(vectors, np.zeros(6, np.float32), WordTable.random(6, 3, 3, 1), print)
    assert table.num_words == 6
