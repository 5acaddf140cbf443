"""Moves within rows: every word keeps its row, and the words of a row share out its columns anew.

Where a word's row stays, so do the hidden states that predict its column, and the predicted loss is
nearly what is measured after the move. A row's words and columns are an assignment problem of their
own, small enough to be solved exactly.
"""

import time
from collections.abc import Callable

import numpy as np

from allocation.costs import CellCosts, DenseCosts, PenalizedCosts
from allocation.solvers.auction import solve_auction
from allocation.solvers.exact import MAX_WORDS_TIMES_CELLS, solve_exact
from allocation.solvers.protocol import Deadline, Solution, better_solution
from lightrnn.table import WordTable

FORBIDDING_NATS = 1e6
"""What leaving the row costs a token: more than any word gains by it."""


def with_rows_fixed(costs: CellCosts, table: WordTable, stay_bonus: float) -> CellCosts:
    """Make it too dear for any word to leave its row.

    Args:
        costs: what the words cost without it.
        table: where the words are now; its own objective does not change.
        stay_bonus: what leaving the column costs, nats a token.

    Raises:
        AllocationError: the bonus is negative or not finite, or a shape is wrong.
    """
    leaving_row = FORBIDDING_NATS * (1.0 - np.eye(costs.num_rows))
    leaving_column = stay_bonus * (1.0 - np.eye(costs.num_columns))
    return PenalizedCosts(costs, table, leaving_row, leaving_column)


def solve_within_rows(
    costs: CellCosts,
    start: WordTable,
    on_progress: Callable[[str], None],
    *,
    time_budget_seconds: float | None = None,
) -> Solution:
    """Find the best table among those that leave every word in its row.

    Args:
        costs: what each word costs in each cell, with rows fixed for the bound to be tight.
        start: the table in force.
        on_progress: gets one line now and then.
        time_budget_seconds: after this time the rows that are left stay as they are.

    Raises:
        AllocationError: the start does not fit the costs.
    """
    began = time.perf_counter()
    deadline = Deadline(began, time_budget_seconds)
    costs.check_table(start)
    small = costs.num_columns**2 <= MAX_WORDS_TIMES_CELLS
    solve_row = solve_exact if small else solve_auction
    columns = np.array(start.column_of_word)
    prices_RC = np.zeros((costs.num_rows, costs.num_columns))
    order = np.argsort(start.row_of_word, kind="stable")
    ends = np.cumsum(np.bincount(start.row_of_word, minlength=costs.num_rows))
    for line, words in enumerate(np.split(order, ends[:-1])):
        if deadline.passed:
            on_progress(f"out of time: {costs.num_rows - line} rows stay as they are")
            break
        if len(words) == 0:
            continue
        _, column_loss_NC = costs.losses(words)
        in_row = DenseCosts(np.zeros((len(words), 1)), column_loss_NC, costs.counts_V[words])
        row_start = WordTable(np.zeros_like(columns[words]), columns[words], 1, costs.num_columns)
        solution = solve_row(in_row, row_start, _silent)
        columns[words] = solution.table.column_of_word
        prices_RC[line] = solution.prices_RC[0]
    on_progress(f"words of {costs.num_rows} rows given new columns")
    table = WordTable(start.row_of_word, columns, costs.num_rows, costs.num_columns)
    return better_solution(costs, start, table, prices_RC, "within rows", began)


def _silent(line: str) -> None:
    """Take the progress of one row's solver and tell nobody."""
