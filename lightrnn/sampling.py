"""Next-word distributions and sampled text.

Legend: B lanes, R rows, C columns, V words, S, L, H as in `lightrnn.model`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lightrnn.errors import ModelError
from lightrnn.model import LightRNN
from lightrnn.table import SPARE, WordTable


@torch.no_grad()
def next_word_log_probabilities(model: LightRNN, last_words_B: Tensor, state: Tensor) -> Tensor:
    """Return log P(w | everything before) for all V words, [B, V].

    Costs one half-step for the rows and one for the columns of each row. With own vectors, or on a
    table without spare cells, the probabilities sum to 1; otherwise to 1 less what the model gives
    to spare cells.

    Args:
        model: in evaluation mode.
        last_words_B: the word just read in each lane.
        state: state after that word, [S, L, B, H].
    """
    num_rows, num_lanes = model.shape.num_rows, len(last_words_B)
    row_log_probabilities_BR, state = row_step(model, last_words_B, state)
    rows = torch.arange(num_rows, device=model.device).repeat(num_lanes)
    state = state.repeat_interleave(num_rows, dim=2)
    column_log_probabilities, _ = column_step(model, rows, state)
    joint_BRC = row_log_probabilities_BR.unsqueeze(2) + column_log_probabilities.view(
        num_lanes, num_rows, -1
    )
    return joint_BRC[:, model.row_of_word.long(), model.column_of_word.long()]


def row_step(model: LightRNN, last_words_B: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Read each lane's last word's column; return log P(next row) [B, R] and the new state."""
    vectors_BE = model.input_vectors(last_words_B)
    hidden_1BH, state = model.run(vectors_BE.unsqueeze(0), state)
    return model.row_logits(hidden_1BH[0]).float().log_softmax(-1), state


def column_step(model: LightRNN, rows_B: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Read each lane's next row; return log P(column | row) [B, C] and the new state."""
    hidden_1BH, state = model.run(model.row_embedding(rows_B).unsqueeze(0), state)
    return model.column_logits(hidden_1BH[0], rows_B).float().log_softmax(-1), state


@torch.no_grad()
def sample_words(
    model: LightRNN,
    table: WordTable,
    prompt: Sequence[int],
    *,
    seed: int,
    temperature: float = 1.0,
    excluded: Sequence[int] = (),
) -> Iterator[int]:
    """Yield words drawn one after another, without end: the row first, then the column in it.

    Args:
        model: in evaluation mode, with `table` set.
        table: tells which cells hold words; the others are never drawn.
        prompt: word ids to read first, at least one.
        seed: the same seed gives the same words on the same device.
        temperature: above 0; below 1 prefers likely words.
        excluded: words never drawn, such as the unknown word.

    Raises:
        ModelError: an empty prompt, a temperature of 0 or less, or nothing left to draw.
    """
    if not prompt:
        raise ModelError("the prompt has no words, expected at least one; change --prompt")
    if not temperature > 0:
        raise ModelError(f"temperature={temperature}, expected above 0; change --temperature")
    allowed_RC = torch.tensor(table.word_at_cell != SPARE)
    for word in excluded:
        allowed_RC[table.row_of_word[word], table.column_of_word[word]] = False
    if not allowed_RC.any():
        raise ModelError("every word is excluded, expected at least one to draw from")
    generator = torch.Generator().manual_seed(seed)

    def draw(log_probabilities: Tensor, allowed: Tensor) -> int:
        logits = log_probabilities.cpu().masked_fill(~allowed, -torch.inf)
        # The likeliest at 0: a very low temperature would make all of them -inf.
        logits = (logits - logits.max()).double() / temperature
        return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))

    state = model.initial_state(1)
    for last, word in pairwise(prompt):
        read = (
            torch.tensor([[last]], device=model.device),
            torch.tensor([[word]], device=model.device),
        )
        _, _, state = model.hidden_states(*read, state)
    word = prompt[-1]
    while True:
        row_log_probabilities, state = row_step(
            model, torch.tensor([word], device=model.device), state
        )
        row = draw(row_log_probabilities[0], allowed_RC.any(1))
        column_log_probabilities, state = column_step(
            model, torch.tensor([row], device=model.device), state
        )
        column = draw(column_log_probabilities[0], allowed_RC[row])
        word = int(table.word_at_cell[row, column])
        yield word
