"""Perplexity: summed losses over a text, the recurrent state carried along or not."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightrnn.model import NO_WORD, LightRNN


@dataclass(frozen=True)
class Losses:
    """Summed negative log-likelihoods of a text, in nats, and its number of words."""

    row_nll: float
    column_nll: float
    tokens: int

    @property
    def row_loss(self) -> float:
        """Nats a token that the row costs."""
        return self.row_nll / self.tokens

    @property
    def column_loss(self) -> float:
        """Nats a token that the column costs once the row is known."""
        return self.column_nll / self.tokens

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.row_loss + self.column_loss

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where it is beyond a float."""
        return perplexity_of(self.loss)


def perplexity_of(loss: float) -> float:
    """Return `exp(loss)` for a loss in nats a token; infinite where it is beyond a float."""
    return math.exp(loss) if loss < 700 else math.inf


@torch.no_grad()
def sum_losses(
    model: LightRNN, batches: Iterable[tuple[Tensor, Tensor]], *, carry_state: bool = True
) -> Tensor:
    """Run `model` in evaluation mode over batches.

    Args:
        model: its mode is put back afterwards.
        batches: `(inputs_BT, targets_BT)` as `LightRNN.forward` takes them; may be none.
        carry_state: whether batches are consecutive, of the same lanes; else each begins anew.

    Returns:
        Summed row losses, summed column losses, number of words: float64 [3] on the model's device.
    """
    was_training = model.training
    model.eval()
    totals = torch.zeros(3, dtype=torch.float64, device=model.device)
    state: Tensor | None = None
    try:
        for inputs_BT, targets_BT in batches:
            if state is None or not carry_state:
                state = model.initial_state(len(inputs_BT))
            row_nll, column_nll, state = model(inputs_BT, targets_BT, state)
            num_words = (targets_BT != NO_WORD).sum()
            totals += torch.stack([row_nll.double(), column_nll.double(), num_words.double()])
    finally:
        model.train(was_training)
    return totals


@torch.no_grad()
def word_losses(
    model: LightRNN, batches: Iterable[tuple[Tensor, Tensor]], *, carry_state: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run `model` in evaluation mode over batches; yield what each word costs.

    Args:
        model: its mode is put back afterwards.
        batches: as in `sum_losses`.
        carry_state: as in `sum_losses`.

    Yields:
        The targets [B, T], and -log P of their rows and of their columns, float32 [2, B, T], 0
        where there is no word.
    """
    was_training = model.training
    model.eval()
    state: Tensor | None = None
    try:
        for inputs_BT, targets_BT in batches:
            if state is None or not carry_state:
                state = model.initial_state(len(inputs_BT))
            for_row, for_column, state = model.hidden_states(inputs_BT, targets_BT, state)
            words_N = targets_BT.t().flatten()
            real_N = words_N != NO_WORD
            rows_N, columns_N = (
                cells[words_N.clamp(min=0)].long()
                for cells in (model.row_of_word, model.column_of_word)
            )
            nll_N = [
                F.cross_entropy(logits.float(), cells_N, reduction="none") * real_N
                for logits, cells_N in (
                    (model.row_logits(for_row.flatten(0, 1)), rows_N),
                    (model.column_logits(for_column.flatten(0, 1), rows_N), columns_N),
                )
            ]
            yield targets_BT, torch.stack([one.view(-1, len(targets_BT)).t() for one in nll_N])
    finally:
        model.train(was_training)
