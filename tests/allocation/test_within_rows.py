"""Moves within rows: exact, never out of the row, proven."""

import itertools

import numpy as np
import pytest

from allocation.costs import DenseCosts
from allocation.solvers import solve_exact, solve_within_rows, with_rows_fixed
from lightrnn import WordTable


def silent(line: str) -> None:
    pass


def instance(seed: int, num_words: int, num_rows: int, num_columns: int):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 9, num_words)
    losses = [
        counts[:, None] * random.exponential(size=(num_words, size))
        for size in (num_rows, num_columns)
    ]
    cells = random.permutation(num_rows * num_columns)[:num_words]
    table = WordTable(cells // num_columns, cells % num_columns, num_rows, num_columns)
    return DenseCosts(*losses, counts), table


@pytest.mark.parametrize("bonus", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(30))
def test_every_way_to_fill_the_rows_is_no_better(seed: int, bonus: float) -> None:
    costs, table = instance(seed, 6, 3, 3)
    fixed = with_rows_fixed(costs, table, bonus)
    solution = solve_within_rows(fixed, table, silent)
    assert solution.table.row_of_word.tolist() == table.row_of_word.tolist()
    tables = []
    for columns in itertools.product(range(3), repeat=6):
        cells = set(zip(table.row_of_word.tolist(), columns, strict=True))
        if len(cells) == 6:
            tables.append(WordTable(table.row_of_word, np.array(columns), 3, 3))
    least = min(fixed.objective(one) for one in tables)
    assert solution.objective == pytest.approx(least, rel=1e-12)
    assert least * (1 - 1e-9) <= solution.lower_bound <= least


@pytest.mark.parametrize(("words", "rows", "columns"), [(60, 8, 8), (40, 5, 30), (1, 4, 4)])
def test_all_words_agree_with_the_exact_solver(words: int, rows: int, columns: int) -> None:
    costs, table = instance(3, words, rows, columns)
    fixed = with_rows_fixed(costs, table, 0.01)
    exact = solve_exact(fixed, table, silent)
    solution = solve_within_rows(fixed, table, silent)
    assert solution.objective == pytest.approx(exact.objective, rel=1e-12)
    assert solution.lower_bound <= exact.objective


def test_rows_that_are_out_of_time_stay() -> None:
    costs, table = instance(5, 60, 8, 8)
    lines: list[str] = []
    fixed = with_rows_fixed(costs, table, 0.0)
    solution = solve_within_rows(fixed, table, lines.append, time_budget_seconds=0.0)
    assert solution.table == table
    assert solution.lower_bound <= solution.objective
    assert lines[0] == "out of time: 8 rows stay as they are"
