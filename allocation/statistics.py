"""Step 1 of a reallocation: what each word's losses would be in every row and column.

With the hidden states held fixed, the loss of word `w` in row `i`, summed over its occurrences, is

    L_row[w, i] = sum_t (log Z_t - <h_t, y_i> - b_i) = A[w] - <G[w], y_i> - n[w] * b_i,

so the sums `G` of hidden states and `A` of log-normalisers hold all V x R losses, and they add up
over batches and over ranks. The same goes for columns. Where tables are small and hidden states
wide, the losses themselves are the fewer numbers.

Legend: V words, H hidden, R rows, C columns, B lanes, T words of a lane, N tokens of a batch,
S sums a word.
"""

import math
from collections.abc import Iterable
from itertools import islice
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from allocation.costs import LossArray
from allocation.fixed_point import NATS_STEP, STATE_STEP, to_multiples
from allocation.storage import Storage
from lightrnn.model import NO_WORD, LightRNN

StatisticsKind = Literal["auto", "hidden", "losses"]


class WordStatistics:
    """Sums over every word's occurrences, in float64 and without rounding.

    States are multiples of `STATE_STEP` and losses of `NATS_STEP`, whence the same occurrences
    have the same sums in any order. Per token that moves a loss in row `i` by at most
    `STATE_STEP / 2 * sum|y_i| + NATS_STEP / 2` nats, less than float32 has moved it before.

    What a word's own vector adds to its logit goes with the word to any column, so it is taken off
    its log-normaliser. That the other words of its row would change that is left out, as is what a
    move does to all that is read later.

    Args:
        model: its heads and the table in force; only heads and sizes are kept.
        kind: `hidden` adds up hidden states, `losses` the losses in all rows and columns, and
            `auto` what takes less room.
        storage: where the sums go.

    Attributes:
        kind: `hidden` or `losses`.
        heads: of rows and of columns.
        widths: sums a word by row and by column, (H, H) or (R, C).
        sums_VS: sums by row, then by column; then, of kind `hidden`, those of log-normalisers by
            row and by column.
        counts_V: occurrences.
        measured: row loss and column loss with the table in force, nats, [2].
        moments: over pieces of one lane and one step, sums of the products of (1, tokens, nats)
            with each other, [3, 3].

    Raises:
        AllocationError: the sums have no room on the disk.
    """

    def __init__(
        self, model: LightRNN, kind: StatisticsKind = "auto", storage: Storage | None = None
    ) -> None:
        shape = model.shape
        num_lines = shape.num_rows + shape.num_columns
        if kind == "auto":
            kind = "hidden" if 2 * shape.hidden_size + 2 < num_lines else "losses"
        self.kind = kind
        self.heads: tuple[nn.Linear, nn.Linear] = (model.row_head, model.column_head)
        if kind == "hidden":
            self.widths = shape.hidden_size, shape.hidden_size
        else:
            self.widths = shape.num_rows, shape.num_columns
        self.sums_VS = (storage or Storage()).zeros(
            model.num_words,
            sum(self.widths) + (2 if kind == "hidden" else 0),
            dtype=torch.float64,
            device=model.device,
        )
        self.counts_V = torch.zeros(model.num_words, dtype=torch.float64, device=model.device)
        self.measured = torch.zeros(2, dtype=torch.float64, device=model.device)
        self.moments = torch.zeros(3, 3, dtype=torch.float64, device=model.device)

    @property
    def num_words(self) -> int:
        """V."""
        return len(self.counts_V)

    def add(self, model: LightRNN, targets_BT: Tensor, hidden_TBH: tuple[Tensor, Tensor]) -> None:
        """Add a batch.

        Args:
            model: with the table in force.
            targets_BT: words that were predicted, `NO_WORD` where there was none.
            hidden_TBH: states that predicted their rows, and their columns.
        """
        real_TB = targets_BT.t() != NO_WORD
        words_N, lanes_N = targets_BT.t()[real_TB].long(), real_TB.nonzero()[:, 1]
        nats_N = torch.zeros(len(words_N), dtype=torch.float64, device=words_N.device)
        line_of_word = model.row_of_word, model.column_of_word
        rows_N = model.row_of_word[words_N].long()
        sums, normalizers = [], []
        for side, head in enumerate(self.heads):
            hidden_NH = hidden_TBH[side][real_TB]
            whole_NL = (
                model.column_logits(hidden_NH, rows_N) if side else model.row_logits(hidden_NH)
            )
            logits_NL = (whole_NL if model.own_vectors is None else head(hidden_NH)).float()
            line_N1 = line_of_word[side][words_N].long()[:, None]
            logit_N1 = logits_NL.gather(1, line_N1)
            own_part_N1 = whole_NL.float().gather(1, line_N1) - logit_N1
            normalizer_N1 = whole_NL.float().logsumexp(-1, keepdim=True) - own_part_N1
            own_nats_N = to_multiples(normalizer_N1 - logit_N1, NATS_STEP)[:, 0]
            self.measured[side] += own_nats_N.sum()
            nats_N += own_nats_N
            if self.kind == "losses":
                sums.append(to_multiples(normalizer_N1 - logits_NL, NATS_STEP))
            else:
                sums.append(to_multiples(hidden_NH, STATE_STEP))
                normalizers.append(to_multiples(normalizer_N1, NATS_STEP))
        self.counts_V.index_add_(0, words_N, torch.ones_like(nats_N))
        sums_NS, device = torch.cat(sums + normalizers, dim=1), self.sums_VS.device
        self.sums_VS.index_add_(0, words_N.to(device), sums_NS.to(device))
        self._add_moments(lanes_N, nats_N, len(targets_BT))

    def _add_moments(self, lanes_N: Tensor, nats_N: Tensor, num_lanes: int) -> None:
        pieces_B3 = nats_N.new_zeros(num_lanes, 3)
        ones_N = torch.ones_like(nats_N)
        pieces_B3.index_add_(0, lanes_N, torch.stack([ones_N, ones_N, nats_N], dim=1))
        pieces_B3[:, 0].clamp_(max=1)
        self.moments += pieces_B3.t() @ pieces_B3

    def block(self, words: slice) -> LossArray:
        """Return a copy of the sums of some words, float64 [stop - start, S]."""
        return np.array(self.sums_VS[words].cpu().numpy())


def standard_error(moments: LossArray) -> float:
    """Return the standard error of the mean loss, nats a token, by ratio estimation.

    The pieces of text are taken as independent, and as drawn from a text without end.

    Args:
        moments: as in `WordStatistics`, of all ranks, [3, 3].

    Returns:
        Not a number for fewer than two pieces.
    """
    (num_pieces, tokens, nats), (_, tokens_squared, tokens_nats), (*_, nats_squared) = moments
    if num_pieces < 2:
        return math.nan
    mean = nats / tokens
    squares = nats_squared - 2 * mean * tokens_nats + mean**2 * tokens_squared
    return float(math.sqrt(max(squares, 0.0) * num_pieces / (num_pieces - 1)) / tokens)


class StatisticsPass:
    """One pass of `model`, in evaluation mode, over this rank's lanes; it may go on piece by piece.

    Args:
        model: its mode is put back after each piece.
        batches: `(inputs_BT, targets_BT)` of this rank's lanes; may be none, and may end before the
            text does: then the sums are those of a sample.
        kind: what is added up, see `WordStatistics`.
        storage: where the sums go; without it into memory, whatever they take.
        carry_state: whether batches are consecutive; else each begins anew.

    Attributes:
        statistics: what was added up so far.
        state: recurrent state of the lanes, [S, L, B, H]; None where the next batch begins anew.
        num_batches: added up so far.

    Raises:
        AllocationError: the sums have no room on the disk.
    """

    def __init__(
        self,
        model: LightRNN,
        batches: Iterable[tuple[Tensor, Tensor]],
        kind: StatisticsKind = "auto",
        storage: Storage | None = None,
        *,
        carry_state: bool = True,
    ) -> None:
        self._model, self._batches, self._carry_state = model, iter(batches), carry_state
        self.statistics = WordStatistics(model, kind, storage)
        self.state: Tensor | None = None
        self.num_batches = 0

    @torch.no_grad()
    def advance(self, max_batches: int | None = None) -> bool:
        """Add up so many more batches at most, or all; return whether the text has ended."""
        model, was_training = self._model, self._model.training
        model.eval()
        begun_at = self.num_batches
        try:
            for inputs_BT, targets_BT in islice(self._batches, max_batches):
                state = self.state
                if state is None:
                    state = model.initial_state(len(inputs_BT))
                for_row, for_column, state = model.hidden_states(inputs_BT, targets_BT, state)
                self.statistics.add(model, targets_BT, (for_row, for_column))
                self.state = state if self._carry_state else None
                self.num_batches += 1
        finally:
            model.train(was_training)
        return max_batches is None or self.num_batches < begun_at + max_batches


class StatisticsKeeper(Protocol):
    """Keeps a pass that takes long, so that another one can go on from there.

    All ranks call it alike, and it may communicate.
    """

    def restore(self, one_pass: StatisticsPass) -> None:
        """Put back what was kept of a pass into one whose batches begin after it."""
        ...

    def keep(self, one_pass: StatisticsPass, *, ended: bool) -> None:
        """Keep a pass between two batches or at its end, or not.

        What it raises, on all ranks, ends the reallocation; the table in force stays.
        """
        ...


def collect_statistics(
    model: LightRNN,
    batches: Iterable[tuple[Tensor, Tensor]],
    kind: StatisticsKind = "auto",
    storage: Storage | None = None,
    *,
    carry_state: bool = True,
) -> WordStatistics:
    """Add up every target word of this rank's lanes, see `StatisticsPass`.

    Raises:
        AllocationError: the sums have no room on the disk.
    """
    one_pass = StatisticsPass(model, batches, kind, storage, carry_state=carry_state)
    one_pass.advance()
    return one_pass.statistics
