"""Step 1 of a reallocation: what each word's losses would be in every row and column.

With the hidden states held fixed, the loss of word `w` in row `i`, summed over its occurrences, is

    L_row[w, i] = sum_t (log Z_t - <h_t, y_i> - b_i) = A[w] - <G[w], y_i> - n[w] * b_i,

so the sums `G` of hidden states and `A` of log-normalisers hold all V x R losses, and they add up
over batches and over ranks. The same goes for columns.

Legend: V words, H hidden, R rows, C columns, N tokens of a batch.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightrnn.model import NO_WORD, LightRNN


class WordStatistics:
    """Sums over every word's occurrences, in float64 on the model's device.

    Attributes:
        hidden_sums: of the states that predict rows, and of those that predict columns, [V, H].
        log_normalizer_sums: of log Z of the row softmax, and of the column softmax, [V].
        counts: occurrences, [V].
        measured: row loss and column loss with the table in force, nats, [2].
    """

    def __init__(self, model: LightRNN) -> None:
        num_words, hidden_size = model.num_words, model.shape.hidden_size
        self.heads = (model.row_head, model.column_head)

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.float64, device=model.device)

        self.hidden_sums = (zeros(num_words, hidden_size), zeros(num_words, hidden_size))
        self.log_normalizer_sums = (zeros(num_words), zeros(num_words))
        self.counts = zeros(num_words)
        self.measured = zeros(2)

    def add(self, model: LightRNN, words_N: Tensor, hidden: tuple[Tensor, Tensor]) -> None:
        """Add the occurrences `words_N` with their states for row and column, each [N, H]."""
        self.counts.index_add_(0, words_N, torch.ones_like(words_N, dtype=torch.float64))
        tables = (model.row_of_word, model.column_of_word)
        for side in range(2):
            logits_NK = self.heads[side](hidden[side]).float()
            log_normalizer_N = logits_NK.logsumexp(-1).double()
            own_logit_N = logits_NK.gather(1, tables[side][words_N].long()[:, None])[:, 0]
            self.hidden_sums[side].index_add_(0, words_N, hidden[side].double())
            self.log_normalizer_sums[side].index_add_(0, words_N, log_normalizer_N)
            self.measured[side] += (log_normalizer_N - own_logit_N).sum()

    def losses(self, start: int, stop: int) -> Tensor:
        """Return the losses of words `start` to `stop` in every row, then every column.

        Returns:
            float64 [stop - start, R + C], nats summed over the occurrences counted here.
        """
        return torch.cat([self._side_losses(side, start, stop) for side in range(2)], dim=1)

    def _side_losses(self, side: int, start: int, stop: int) -> Tensor:
        head: nn.Linear = self.heads[side]
        scores = self.hidden_sums[side][start:stop] @ head.weight.detach().double().t()
        scores += self.counts[start:stop, None] * head.bias.detach().double()
        losses: Tensor = self.log_normalizer_sums[side][start:stop, None] - scores
        return losses


@torch.no_grad()
def collect_statistics(model: LightRNN, batches: Iterable[tuple[Tensor, Tensor]]) -> WordStatistics:
    """Run `model` in evaluation mode over this rank's lanes and add up every target word.

    Args:
        model: its mode is put back afterwards.
        batches: consecutive `(inputs_BT, targets_BT)` of the same lanes; may be none.
    """
    was_training = model.training
    model.eval()
    statistics = WordStatistics(model)
    state: Tensor | None = None
    try:
        for inputs_BT, targets_BT in batches:
            if state is None:
                state = model.initial_state(len(inputs_BT))
            for_row, for_column, state = model.hidden_states(inputs_BT, targets_BT, state)
            targets_N = targets_BT.t().flatten()
            real = targets_N != NO_WORD
            hidden = for_row.flatten(0, 1)[real], for_column.flatten(0, 1)[real]
            statistics.add(model, targets_N[real].long(), hidden)
    finally:
        model.train(was_training)
    return statistics
