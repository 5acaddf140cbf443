"""A first table from a cheap model of the two words right before, by the reallocation itself.

The model predicts row and column as LightRNN does, without recurrence. What it reads are vectors of
the words' own, which stay the same when words move, so that what a reallocation predicts is nearly
what comes of it. It learns for a pass, words move, and so on, round by round.

Legend: B lanes, T words, H width.
"""

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from allocation.communicators import TorchCommunicator
from allocation.phase import Method, reallocate
from lightrnn.model import NO_WORD, LightRNN, ModelShape
from lightrnn.table import WordTable

WIDTH = 64
"""Of input vectors and of what predicts."""

NUM_OWN_VECTORS = 30_000
"""So many words, the most frequent ones, have vectors of their own; all others share one."""

NUM_ROUNDS = 4
SOLVER_SECONDS = 60.0
"""Of each round, so that a million words take minutes; then the rest go to the best free cells, and
the table hangs on the machine's speed. Some hundred thousand words need less."""

LEARNING_RATE = 5e-3

Batches = Iterable[tuple[Tensor, Tensor]]


class ContextModel(LightRNN):
    """LightRNN with the last two words in place of recurrence; words in order of their counts."""

    def __init__(self, num_words: int, num_rows: int, num_columns: int) -> None:
        super().__init__(ModelShape(num_rows, num_columns, WIDTH, WIDTH, cell="rnn"), num_words)
        del self.column_embedding, self.layers
        self.word_embedding = nn.Embedding(min(num_words, NUM_OWN_VECTORS + 1), WIDTH)
        self.for_row, self.for_column = nn.Linear(2 * WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def hidden_states(
        self,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        state: Tensor,
        dropout_keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what predicts each target's row and column [T, B, H], and the state as it was."""
        words_TB = inputs_BT.t().clamp(max=self.word_embedding.num_embeddings - 1)
        last_TBH = self.word_embedding(words_TB)
        before_TBH = F.pad(last_TBH[:-1], (0, 0, 0, 0, 1, 0))
        context = torch.cat([last_TBH, before_TBH], dim=-1)
        rows_TBH = self.row_embedding(self.row_of_word[targets_BT.t().clamp(min=0)])
        return self.for_row(context).tanh(), (self.for_column(context) + rows_TBH).tanh(), state


def context_table(
    batches: Callable[[], Batches],
    num_words: int,
    num_rows: int,
    num_columns: int,
    seed: int,
    group: dist.ProcessGroup,
    *,
    device: torch.device,
    on_progress: Callable[[str], None] = lambda line: None,
) -> WordTable:
    """Return the table after some rounds of learning and reallocation; called by all ranks.

    Args:
        batches: begins a pass over this rank's lanes; equally many batches on every rank.
        num_words, num_rows, num_columns: V, R, C; words in order of falling counts.
        seed: of the table at first and of the parameters.
        group: all ranks, for CPU tensors; its time-out has to outlast the solver on rank 0.
        device: where batches and models lie.
        on_progress: gets one line now and then.

    Raises:
        LightRNNError: as `reallocate`.
    """
    table = WordTable.random(num_words, num_rows, num_columns, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ContextModel(num_words, num_rows, num_columns).to(device)
    for number in range(1, NUM_ROUNDS + 1):
        model.set_table(table)
        learn(model, batches(), group)
        table, report = reallocate(
            model,
            table,
            batches(),
            communicator=TorchCommunicator(group),
            method=Method(time_budget_seconds=SOLVER_SECONDS),
            on_progress=on_progress,
        )
        on_progress(
            f"context model, round {number}: loss {report.loss_before:.3f} nats a token, "
            f"{report.loss_predicted:.3f} predicted with the next table"
        )
    return table


def learn(model: LightRNN, batches: Batches, group: dist.ProcessGroup) -> None:
    """Let all ranks take a step for each batch, as for one batch over all their lanes."""
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    for inputs_BT, targets_BT in batches:
        losses = model(inputs_BT, targets_BT, model.initial_state(len(inputs_BT)))
        gradients = torch.autograd.grad(losses.row_nll + losses.column_nll, parameters)
        num_tokens = (targets_BT != NO_WORD).sum()
        whole = torch.cat([gradient.flatten() for gradient in (*gradients, num_tokens)]).cpu()
        dist.all_reduce(whole, group=group)
        parts = torch.split(whole[:-1].to(model.device), [one.numel() for one in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter) / whole[-1].clamp(min=1).item()
        optimizer.step()
