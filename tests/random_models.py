"""Small models whose predictions are far from uniform, and texts for them to read.

Legend: B lanes, T words, V words of the vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightrnn import LightRNN, ModelShape, WordTable, next_word_log_probabilities
from lightrnn.dropout import DropoutRates
from lightrnn.model import NO_WORD, Cell

# A second thread costs small models far more than it brings, most of all on a busy machine.
torch.set_num_threads(1)

Batches = list[tuple[Tensor, Tensor]]


def random_model(
    num_words: int,
    num_rows: int,
    num_columns: int,
    *,
    cell: Cell = "lstm",
    num_layers: int = 1,
    embedding_size: int = 5,
    hidden_size: int = 6,
    tied: bool = False,
    word_size: int = 0,
    dropout: DropoutRates | float = 0.0,
    scale: float = 0.7,
    seed: int = 0,
) -> tuple[LightRNN, WordTable]:
    """Return a model with large random parameters, in evaluation mode, and its random table."""
    shape = ModelShape(
        num_rows, num_columns, embedding_size, hidden_size, num_layers, cell, tied, word_size
    )
    generator = torch.Generator().manual_seed(seed)
    model = LightRNN(shape, num_words, dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, scale, generator=generator)
    table = WordTable.random(num_words, num_rows, num_columns, seed)
    model.set_table(table)
    return model.eval(), table


def random_batches(
    num_words: int, lengths: Sequence[int], bptt: int, seed: int = 0
) -> tuple[Tensor, Batches]:
    """Return a text in lanes and the batches of it, as the corpus gives them.

    Args:
        num_words: V; frequent words have low ids, and the last ones may not occur.
        lengths: number of targets of each lane; short lanes are padded.
        bptt: targets a step and lane.
        seed: of the text.

    Returns:
        Words int32 [B, longest + 1], meaningless where a lane has ended, and the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    uniform = torch.rand(len(lengths), longest + 1, generator=generator)
    words = (num_words * uniform**2).to(torch.int32)
    inputs, targets = words[:, :-1].clone(), words[:, 1:].clone()
    ended = torch.arange(longest)[None, :] >= torch.tensor(lengths)[:, None]
    inputs[ended], targets[ended] = 0, NO_WORD
    batches = [
        (inputs[:, start : start + bptt], targets[:, start : start + bptt])
        for start in range(0, longest, bptt)
    ]
    return words, batches


def lanes_of_rank(batches: Batches, rank: int, world_size: int) -> Batches:
    """Return a rank's contiguous share of the lanes, with batches that are views."""
    num_lanes = len(batches[0][0])
    first, last = (edge * num_lanes // world_size for edge in (rank, rank + 1))
    return [(inputs[first:last], targets[first:last]) for inputs, targets in batches]


def chained_nll(model: LightRNN, words_BT: Tensor) -> Tensor:
    """Return -log P of every word but a lane's first, from the distributions over all words.

    Args:
        model: in evaluation mode.
        words_BT: whole lanes, without padding.

    Returns:
        Nats, float32 [B, T - 1].
    """
    state = model.initial_state(len(words_BT))
    nll = []
    for last, following in zip(words_BT.t()[:-1], words_BT.t()[1:], strict=True):
        log_probabilities_BV = next_word_log_probabilities(model, last, state)
        nll.append(-log_probabilities_BV.gather(1, following.long()[:, None])[:, 0])
        _, _, state = model.hidden_states(last[:, None], following[:, None], state)
    return torch.stack(nll, dim=1)
