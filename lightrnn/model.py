"""LightRNN (Li, Qin, Yang, Hu, Liu, NIPS 2016): two half-steps of one recurrent network a word.

A word is its cell in the word table. The network runs over the interleaved sequence
`column(w0), row(w1), column(w1), row(w2), ...`: what it holds after a column predicts the next
word's row, what it holds after that row predicts the word's column. So any recurrent kernel runs
LightRNN as it is, over a sequence of twice the length.

Legend: B lanes, T words, E embedding, H hidden, L layers, S state tensors (LSTM 2, else 1),
R rows, C columns, V words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from lightrnn.dropout import DropoutRates, LaneDropout, WordDropout
from lightrnn.errors import ModelError
from lightrnn.losses import linear_cross_entropy
from lightrnn.own_vectors import OwnVectors
from lightrnn.table import WordTable

Cell = Literal["lstm", "gru", "rnn"]
_KERNELS: dict[Cell, Callable[[int, int], nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}

NO_WORD = -1
"""Target of a padded position: it takes no part in any loss."""


@dataclass(frozen=True)
class ModelShape:
    """All sizes that fix the parameters of a model; `word_size` numbers are each word's own.

    Raises:
        ModelError: a size is too small, or vectors are tied at unequal widths.
    """

    num_rows: int
    num_columns: int
    embedding_size: int
    hidden_size: int
    num_layers: int = 1
    cell: Cell = "lstm"
    tied: bool = False
    word_size: int = 0

    def __post_init__(self) -> None:
        for name in ("num_rows", "num_columns", "embedding_size", "hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ModelError(f"{name}={getattr(self, name)}, expected at least 1")
        if self.word_size < 0:
            raise ModelError(f"word_size={self.word_size}, expected at least 0")
        if self.tied and self.embedding_size != self.hidden_size:
            raise ModelError(
                f"tied vectors need equal widths, found embedding_size={self.embedding_size} and "
                f"hidden_size={self.hidden_size}; make them equal or set model.tied=false"
            )


class WordLosses(NamedTuple):
    """Losses of one batch, and the state to go on with.

    Attributes:
        row_nll: summed -log P(row of each target), nats, scalar.
        column_nll: summed -log P(column of each target | its row), nats, scalar.
        state: recurrent state after the last target, [S, L, B, H].
    """

    row_nll: Tensor
    column_nll: Tensor
    state: Tensor


class LightRNN(nn.Module):
    """The network with its row and column vectors; the word table is set from outside.

    Args:
        shape: sizes.
        num_words: V.
        dropout: probabilities by place, or one for the vectors going in, between layers, and for
            the hidden states that predict.
    """

    row_of_word: Tensor
    column_of_word: Tensor
    loss_chunk_tokens = 0
    """Positions whose logits are held at a time; 0 for as many as suit the device."""

    def __init__(
        self, shape: ModelShape, num_words: int, dropout: DropoutRates | float = 0.0
    ) -> None:
        super().__init__()
        self.shape = shape
        self.row_embedding = nn.Embedding(shape.num_rows, shape.embedding_size)
        self.column_embedding = nn.Embedding(shape.num_columns, shape.embedding_size)
        kernel = _KERNELS[shape.cell]
        widths = [shape.embedding_size] + [shape.hidden_size] * (shape.num_layers - 1)
        self.layers = nn.ModuleList(kernel(width, shape.hidden_size) for width in widths)
        if not isinstance(dropout, DropoutRates):
            dropout = DropoutRates(inputs=dropout, hidden=dropout, outputs=dropout)
        places = [dropout.inputs] + [dropout.hidden] * (shape.num_layers - 1) + [dropout.outputs]
        self.dropouts = nn.ModuleList(
            LaneDropout(p, place, variational=dropout.variational) for place, p in enumerate(places)
        )
        self.weight_dropouts = nn.ModuleList(
            LaneDropout(dropout.weights, len(places) + number) for number in range(shape.num_layers)
        )
        self.word_dropout = WordDropout(dropout.words, len(places) + shape.num_layers)
        self.row_head = nn.Linear(shape.hidden_size, shape.num_rows)
        self.column_head = nn.Linear(shape.hidden_size, shape.num_columns)
        for embedding in (self.row_embedding, self.column_embedding):
            nn.init.uniform_(embedding.weight, -0.1, 0.1)
        if shape.tied:
            self.row_head.weight = self.row_embedding.weight
            self.column_head.weight = self.column_embedding.weight
        self.own_vectors = (
            OwnVectors(
                num_words,
                shape.word_size,
                embedding_size=shape.embedding_size,
                hidden_size=shape.hidden_size,
                num_rows=shape.num_rows,
                num_columns=shape.num_columns,
            )
            if shape.word_size
            else None
        )
        for name in ("row_of_word", "column_of_word"):
            cells = torch.zeros(num_words, dtype=torch.int32)
            self.register_buffer(name, cells, persistent=False)

    @property
    def num_words(self) -> int:
        """V."""
        return len(self.row_of_word)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.row_of_word.device

    @property
    def num_parameters(self) -> int:
        """Trained numbers; tied vectors count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def set_table(self, table: WordTable) -> None:
        """Place the words by `table`; parameters stay as they are.

        Raises:
            ModelError: the table is of another shape or another number of words.
        """
        found = (table.num_words, table.num_rows, table.num_columns)
        expected = (self.num_words, self.shape.num_rows, self.shape.num_columns)
        if found != expected:
            raise ModelError(f"the table has (V, R, C) = {found}, the model {expected}")
        self.row_of_word.copy_(torch.tensor(table.row_of_word))
        self.column_of_word.copy_(torch.tensor(table.column_of_word))
        if self.own_vectors is not None:
            self.own_vectors.set_table(table)

    def initial_state(self, num_lanes: int) -> Tensor:
        """Return the state before a text's first word: zeros [S, L, B, H]."""
        num_tensors = 2 if self.shape.cell == "lstm" else 1
        size = (num_tensors, self.shape.num_layers, num_lanes, self.shape.hidden_size)
        return torch.zeros(size, device=self.device)

    def forward(
        self,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        state: Tensor,
        dropout_keys: Tensor | None = None,
    ) -> WordLosses:
        """Return the summed losses of `targets_BT`, each predicted from all words before it.

        Args:
            inputs_BT: the word before each target, integer [B, T].
            targets_BT: words to predict, integer [B, T]; `NO_WORD` where a lane has ended.
            state: recurrent state, [S, L, B, H].
            dropout_keys: of the step and its lanes, int64 [1 + B], as `dropout_keys` makes them;
                needed for reproducible dropout in training.
        """
        hidden_for_row, hidden_for_column, state = self.hidden_states(
            inputs_BT, targets_BT, state, dropout_keys
        )
        words_N = targets_BT.t().flatten()
        rows_N = self._cells_of(words_N, self.row_of_word)
        columns_N = self._cells_of(words_N, self.column_of_word)
        for_row_NH, for_column_NH = hidden_for_row.flatten(0, 1), hidden_for_column.flatten(0, 1)
        if self.own_vectors is None:
            row_nll = self._cross_entropy(self.row_head, for_row_NH, rows_N)
            column_nll = self._cross_entropy(self.column_head, for_column_NH, columns_N)
        else:
            row_nll = _summed_cross_entropy(self.row_logits(for_row_NH), rows_N)
            column_logits = self.column_logits(for_column_NH, rows_N.clamp(min=0))
            column_nll = _summed_cross_entropy(column_logits, columns_N)
        return WordLosses(row_nll, column_nll, state)

    def _cross_entropy(self, head: nn.Linear, hidden_NH: Tensor, cells_N: Tensor) -> Tensor:
        return linear_cross_entropy(
            hidden_NH, head, cells_N, ignored=NO_WORD, chunk_size=self.loss_chunk_tokens
        )

    def hidden_states(
        self,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        state: Tensor,
        dropout_keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what predicts each target's row and column, both [T, B, H], and the new state."""
        rows_TB = self.row_of_word[targets_BT.t().clamp(min=0)]
        lane_keys_B = None if dropout_keys is None else dropout_keys[1:]
        words = self.input_vectors(inputs_BT.t())
        pairs = (
            self.word_dropout(words, inputs_BT.t(), lane_keys_B),
            self.row_embedding(rows_TB),
        )
        hidden, state = self.run(torch.stack(pairs, dim=1).flatten(0, 1), state, dropout_keys)
        hidden_T2BH = hidden.view(-1, 2, *hidden.shape[1:])
        for_row_TBH, for_column_TBH = hidden_T2BH.unbind(1)
        return for_row_TBH, for_column_TBH, state

    def run(
        self, vectors: Tensor, state: Tensor, dropout_keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run half-steps over `vectors` [half-steps, B, E]; return hidden states and new state."""
        lane_keys_B = None if dropout_keys is None else dropout_keys[1:]
        hidden = self.dropouts[0](vectors, lane_keys_B)
        new_states = []
        for number, layer_state in enumerate(state.unbind(1)):
            tensors_1BH = tuple(tensor.unsqueeze(0) for tensor in layer_state)
            inputs = hidden, tensors_1BH if len(tensors_1BH) == 2 else tensors_1BH[0]
            hidden, new = self._run_layer(number, inputs, dropout_keys)
            hidden = self.dropouts[number + 1](hidden, lane_keys_B)
            new_states.append(torch.cat(new if isinstance(new, tuple) else (new,)))
        return hidden, torch.stack(new_states, dim=1)

    def _run_layer(self, number: int, inputs: tuple[Any, Any], dropout_keys: Tensor | None) -> Any:
        """Run a layer's kernel, in training with part of its recurrent matrix dropped."""
        layer, dropout = self.layers[number], self.weight_dropouts[number]
        if not self.training or dropout.p == 0.0:
            return layer(*inputs)
        step_key_1 = None if dropout_keys is None else dropout_keys[:1]
        # The matrix as half-steps of one lane: [4H, 1, H].
        matrix = layer.get_parameter("weight_hh_l0")
        weights = dropout(matrix.unsqueeze(1), step_key_1).squeeze(1)
        return functional_call(layer, {"weight_hh_l0": weights}, inputs)

    def input_vectors(self, words: Tensor) -> Tensor:
        """Return what is read of words once their rows are known, [..., E]."""
        vectors: Tensor = self.column_embedding(self.column_of_word[words])
        if self.own_vectors is not None:
            vectors = vectors + self.own_vectors.inputs(words)
        return vectors

    def row_logits(self, hidden_NH: Tensor) -> Tensor:
        """Return the logits of the next word's row, [N, R]."""
        logits_NR: Tensor = self.row_head(hidden_NH)
        return logits_NR if self.own_vectors is None else self.own_vectors.mask_rows(logits_NR)

    def column_logits(self, hidden_NH: Tensor, rows_N: Tensor) -> Tensor:
        """Return the logits of the next word's column once its row is known, [N, C]."""
        logits_NC: Tensor = self.column_head(hidden_NH)
        if self.own_vectors is None:
            return logits_NC
        return self.own_vectors.add_to_columns(logits_NC, hidden_NH, rows_N)

    @staticmethod
    def _cells_of(words_N: Tensor, cell_of_word: Tensor) -> Tensor:
        """Return rows or columns of words, `NO_WORD` where there is no word."""
        cells_N = cell_of_word[words_N.clamp(min=0)].long()
        return cells_N.masked_fill(words_N == NO_WORD, NO_WORD)


def _summed_cross_entropy(logits_NL: Tensor, cells_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NL.float(), cells_N, ignore_index=NO_WORD, reduction="sum")
