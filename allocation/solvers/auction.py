"""An auction of the cells: near-optimal tables for millions of words, with their proof.

Bertsekas's auction algorithm (1988) for the assignment problem. Words bid for cells; a word bids
for the cell where its loss and the cell's price together are least, and raises that price by what
the cell is better than its second best, plus a small increment. The word that held the cell loses
it and bids again. At the end every word sits in a cell that is the best for it at the final prices
but for its increment, so the table is optimal but for the sum of the increments, and the prices
prove it (`allocation.certificate`).

What makes it fast here:

- A word keeps a short list of its best cells. Prices only rise, so all other cells stay at least as
  dear as they were when the list was made (its tail), and a bid looks at the list alone. Only when
  the best of the list rises above the tail does the word need a new list: words that do wait for
  each other, and their lists are made together, in parallel.
- A list is made from the separable losses without a look at all R x C cells
  (`allocation.candidates`), and the losses themselves from sums of hidden states, block by block.
- The increment of a word grows with its count: half of the error a token is dealt by counts, half
  evenly over words, so that neither frequent nor rare words bid in tiny steps.

Legend: V words, R rows, C columns, M cells in a word's list, Q words that wait for a list.
"""

import math
import time
from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt

from allocation.candidates import NO_CELL, LossArray, best_cells, line_prices_of
from allocation.certificate import lower_bound
from allocation.costs import CellCosts
from allocation.solvers.free_cells import place_in_free_cells
from allocation.solvers.protocol import Solution
from lightrnn.table import WordTable

NO_WORD = -1

PRECISION = 1e-5
"""What the increments may cost together, as a share of what a random table costs above the sum of
each word's least loss."""

LISTS_BEFORE_RAISE = 32
MAX_RAISE = 2**10
"""After every so many lists a word's increment doubles, up to so many times the first one: where
equal words fight for equal cells, prices would rise by ever so many tiny steps."""

LEAST_CELLS_PER_WORD, MOST_CELLS_PER_WORD = 48, 96
LIST_BYTES, CELL_BYTES = 1 << 30, 4 + 4
"""Longer lists are made less often. They have as many cells as the bytes allow, in these bounds."""

LINES_PER_WORD = 64
WORDS_PER_BATCH = 4096
LEAST_WORDS_PER_BATCH = 64
BIDS_PER_ROUND = 1 << 22
SECONDS_BETWEEN_REPORTS = 5.0

WordArray = npt.NDArray[np.int64]


def solve_auction(
    costs: CellCosts,
    start: WordTable,
    on_progress: Callable[[str], None],
    *,
    time_budget_seconds: float | None = None,
    precision: float = PRECISION,
) -> Solution:
    """Find a table that is optimal but for a stated precision.

    Args:
        costs: what each word costs in each cell.
        start: the table in force, which is kept where no other table is better; words that never
            occurred stay in their cells where these are left free.
        on_progress: called now and then with one line.
        time_budget_seconds: after this time words without a cell go to the best free ones.
        precision: largest gap, as a share of what a random table costs above the sum of each
            word's least loss; what words in a price war bid more comes on top. Halving it costs
            some percent more time.

    Returns:
        The table with final prices; its lower bound is the dual value of these prices.

    Raises:
        AllocationError: the start does not fit the costs.
    """
    began = time.perf_counter()
    deadline = began + time_budget_seconds if time_budget_seconds is not None else np.inf
    start_objective = costs.objective(start)
    auction = _Auction(costs, precision * _spread(costs), on_progress)
    in_time = auction.run(deadline)
    if not in_time:
        on_progress(f"out of time: {auction.num_unassigned} words go to the best free cells")
        auction.place_in_free_cells()
    auction.place_indifferent(start)
    table = WordTable.from_cells(auction.cell_of_word, costs.num_rows, costs.num_columns)
    objective = costs.objective(table)
    if start_objective <= objective:
        table, objective = start, start_objective
    bound = lower_bound(costs, auction.prices_RC)
    seconds = time.perf_counter() - began
    # At the optimum the bound may come out above the objective by rounding.
    bound = min(bound, objective)
    return Solution(table, objective, bound, auction.prices_RC, "auction", seconds)


class _Auction:
    """Prices, who holds which cell, and the lists that bids are made from."""

    def __init__(
        self, costs: CellCosts, error_nats: float, on_progress: Callable[[str], None]
    ) -> None:
        num_words = costs.num_words
        self.costs, self.on_progress = costs, on_progress
        self.prices_RC: LossArray = np.zeros((costs.num_rows, costs.num_columns))
        self.line_prices = line_prices_of(self.prices_RC)
        self.word_at_cell = np.full(costs.num_cells, NO_WORD, np.int32)
        self.cell_of_word = np.full(num_words, NO_CELL, np.int32)
        self.cells_per_word = min(
            max(LIST_BYTES // (CELL_BYTES * max(num_words, 1)), LEAST_CELLS_PER_WORD),
            MOST_CELLS_PER_WORD,
        )
        self.lists = (
            np.full((num_words, self.cells_per_word), NO_CELL, np.int32),
            np.zeros((num_words, self.cells_per_word), np.float32),
            np.empty(num_words),
        )
        total = costs.counts_V.sum()
        shares_V = costs.counts_V / total if total else np.zeros(num_words)
        self.increments_V = error_nats / 2 * (shares_V + 1 / max(num_words, 1))
        # Without a spread all tables are equal, and increments of zero would never end.
        self.indifferent_V = (costs.counts_V == 0) | (error_nats == 0)
        self.lists_of_word = np.zeros(num_words, np.int64)
        self.num_bids, self.num_lists = 0, 0
        self.lists_at_folding = 0

    @property
    def num_unassigned(self) -> int:
        """Words without a cell, the indifferent ones left out."""
        return int(np.sum((self.cell_of_word == NO_CELL) & ~self.indifferent_V))

    def run(self, deadline: float) -> bool:
        """Let words bid, most frequent first, until all have a cell; False if out of time."""
        order = np.argsort(-self.costs.counts_V, kind="stable")
        order = order[: len(order) - np.count_nonzero(self.indifferent_V)]
        next_report = time.perf_counter() + SECONDS_BETWEEN_REPORTS
        # The next to bid lies last.
        bidders = np.empty(len(order) + 1, np.int64)
        waiting = np.empty(WORDS_PER_BATCH, np.int64)
        num_bidders, num_entered, batch_size = 0, 0, WORDS_PER_BATCH
        while num_bidders or num_entered < len(order):
            # Lists are made for many words at a time, so new ones enter before all others sit.
            if num_bidders < WORDS_PER_BATCH // 4 and num_entered < len(order):
                entering = order[num_entered : num_entered + WORDS_PER_BATCH]
                num_entered += len(entering)
                self._make_lists(entering)
                num_bidders = _push(bidders, num_bidders, entering)
            num_bidders, num_waiting, num_bids = _bid(
                bidders,
                num_bidders,
                self.prices_RC.reshape(-1),
                *self.lists,
                self.increments_V,
                self.word_at_cell,
                self.cell_of_word,
                waiting[:batch_size],
                BIDS_PER_ROUND,
            )
            self.num_bids += num_bids
            if num_waiting:
                # Lists of equal words are spent by the bids of a few of them.
                batch_size = batch_size // 2 if num_bids < num_waiting else 2 * batch_size
                batch_size = min(max(batch_size, LEAST_WORDS_PER_BATCH), WORDS_PER_BATCH)
                again = waiting[:num_waiting].copy()
                self._make_lists(again)
                num_bidders = _push(bidders, num_bidders, again)
            now = time.perf_counter()
            if now > next_report:
                next_report = now + SECONDS_BETWEEN_REPORTS
                self._report(num_entered - num_bidders, len(order))
            if now > deadline and (num_bidders or num_entered < len(order)):
                return False
        self._report(len(order), len(order))
        return True

    def _report(self, num_placed: int, num_words: int) -> None:
        self.on_progress(
            f"auction: {num_placed} of {num_words} words placed, {self.num_bids} bids, "
            f"{self.num_lists} lists"
        )

    def _make_lists(self, words: WordArray) -> None:
        """Make new lists of the words' best cells at present prices."""
        self.num_lists += len(words)
        self.lists_of_word[words] += 1
        raised = self.lists_of_word[words] % LISTS_BEFORE_RAISE == 0
        raised &= self.lists_of_word[words] <= LISTS_BEFORE_RAISE * math.log2(MAX_RAISE)
        self.increments_V[words[raised]] *= 2
        if (self.num_lists - self.lists_at_folding) * 16 > len(self.cell_of_word):
            # Prices of lines may be old, since those of cells only rise; newer ones prune better.
            self.line_prices = line_prices_of(self.prices_RC)
            self.lists_at_folding = self.num_lists
        num_lines = LINES_PER_WORD
        open_words = words
        while len(open_words):
            lines = self.costs.candidates(open_words, num_lines, self.line_prices)
            best = best_cells(lines, self.prices_RC, self.line_prices, self.cells_per_word)
            found = best.cells_NM[:, 0] != NO_CELL
            cells_VM, losses_VM, tails_V = self.lists
            placed = open_words[found]
            cells_VM[placed], losses_VM[placed] = best.cells_NM[found], best.losses_NM[found]
            tails_V[placed] = best.tails_N[found]
            open_words = open_words[~found]
            num_lines *= 8

    def place_in_free_cells(self) -> None:
        """Give each word without a cell, most frequent first, the best of the free ones."""
        words = np.flatnonzero((self.cell_of_word == NO_CELL) & ~self.indifferent_V)
        place_in_free_cells(self.costs, self.cell_of_word, words)
        self.word_at_cell[self.cell_of_word[words]] = words

    def place_indifferent(self, start: WordTable) -> None:
        """Leave words that never occurred where they are, or put them where there is room."""
        words = np.flatnonzero(self.indifferent_V)
        cells = start.row_of_word[words].astype(np.int64) * start.num_columns
        cells += start.column_of_word[words]
        stay = self.word_at_cell[cells] == NO_WORD
        self.word_at_cell[cells[stay]] = words[stay]
        self.cell_of_word[words[stay]] = cells[stay]
        moving = words[~stay]
        free = np.flatnonzero(self.word_at_cell == NO_WORD)[: len(moving)]
        self.word_at_cell[free] = moving
        self.cell_of_word[moving] = free


def _spread(costs: CellCosts) -> float:
    """Return about what a random table costs above the sum of each word's least loss, in nats."""
    order = np.argsort(-costs.counts_V, kind="stable")
    most_frequent, others = order[:WORDS_PER_BATCH], order[WORDS_PER_BATCH:]
    stride = max(1, len(others) // WORDS_PER_BATCH)
    spread = 0.0
    for words, weight in ((most_frequent, 1), (others[::stride], stride)):
        for loss in costs.losses(words) if len(words) else ():
            spread += weight * float((loss.mean(axis=1) - loss.min(axis=1)).sum())
    return spread


@numba.njit(cache=True, nogil=True)
def _push(bidders, num_bidders, words):  # type: ignore[no-untyped-def]
    """Put words on top of the stack of bidders, the first of them uppermost."""
    for word in words[::-1]:
        bidders[num_bidders] = word
        num_bidders += 1
    return num_bidders


@numba.njit(cache=True, nogil=True)
def _bid(  # type: ignore[no-untyped-def]
    bidders,
    num_bidders,
    prices,
    cells_VM,
    losses_VM,
    tails_V,
    increments_V,
    word_at_cell,
    cell_of_word,
    waiting_Q,
    max_bids,
):
    """Let words bid until all have a cell, as many as may wait for new lists, or bids run out.

    Returns:
        How many bidders are left, how many words wait, how many bids were made.
    """
    num_waiting, num_bids = 0, 0
    while num_bidders > 0 and num_waiting < len(waiting_Q) and num_bids < max_bids:
        num_bidders -= 1
        word = bidders[num_bidders]
        # The second best is no better than the tail, which bounds all that is not on the list.
        best, second, best_cell = np.inf, tails_V[word], NO_CELL
        for place in range(cells_VM.shape[1]):
            cell = cells_VM[word, place]
            if cell == NO_CELL:
                break
            total = losses_VM[word, place] + prices[cell]
            if total < best:
                second = min(second, best)
                best, best_cell = total, cell
            else:
                second = min(second, total)
        # One as good as the tail is a best one, too: all on the list may be equal to it.
        if best > tails_V[word]:
            waiting_Q[num_waiting] = word
            num_waiting += 1
            continue
        num_bids += 1
        # With no second cell at all, any price will do.
        lead = second - best if second < np.inf else 0.0
        prices[best_cell] += lead + increments_V[word]
        loser = word_at_cell[best_cell]
        if loser != NO_WORD:
            cell_of_word[loser] = NO_CELL
            bidders[num_bidders] = loser
            num_bidders += 1
        word_at_cell[best_cell] = word
        cell_of_word[word] = best_cell
    return num_bidders, num_waiting, num_bids
