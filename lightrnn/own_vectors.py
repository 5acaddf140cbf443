"""A few numbers of each word's own, beside the vectors that it shares with its row and column.

With shared vectors alone two words of a row differ by their columns' vectors only, the same in
every row. Own numbers `u_w` let the network read the word itself and tell a row's words apart:

    x_col(w)                 = column vector + Q u_w
    logit of the cell (i, j) = <column vector, h> + b_j + <P h + p, u_w>,    w the word in (i, j)

They take V * D parameters, so D is small, and move with the word. Empty cells and rows have
probability 0, so that the probabilities of all words sum to 1.

Legend: N positions, E embedding, H hidden, D own numbers, R rows, C columns, V words.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightrnn.table import SPARE, WordTable


class OwnVectors(nn.Module):
    """The words' own numbers, and what takes them in and out of the network.

    Args:
        num_words: V.
        size: D.
        embedding_size: E.
        hidden_size: H.
        num_rows: R.
        num_columns: C.
    """

    word_at_cell: Tensor
    is_empty_row: Tensor

    def __init__(
        self,
        num_words: int,
        size: int,
        *,
        embedding_size: int,
        hidden_size: int,
        num_rows: int,
        num_columns: int,
    ) -> None:
        super().__init__()
        self.vectors = nn.Embedding(num_words, size)
        self.reading = nn.Linear(size, embedding_size, bias=False)
        self.predicting = nn.Linear(hidden_size, size)
        nn.init.uniform_(self.vectors.weight, -0.1, 0.1)
        cells = torch.zeros(num_rows, num_columns, dtype=torch.int32)
        self.register_buffer("word_at_cell", cells, persistent=False)
        no_row = torch.zeros(num_rows, dtype=torch.bool)
        self.register_buffer("is_empty_row", no_row, persistent=False)

    def set_table(self, table: WordTable) -> None:
        """Place the words; their numbers go with them."""
        self.word_at_cell.copy_(torch.tensor(table.word_at_cell))
        self.is_empty_row.copy_((self.word_at_cell == SPARE).all(1))

    def inputs(self, words: Tensor) -> Tensor:
        """Return what the words' own numbers add to their input vectors, [..., E]."""
        own: Tensor = self.reading(self.vectors(words))
        return own

    def mask_rows(self, logits_NR: Tensor) -> Tensor:
        """Return the logits of all rows, those without any word at minus infinity."""
        return logits_NR.masked_fill(self.is_empty_row, -torch.inf)

    def add_to_columns(self, logits_NC: Tensor, hidden_NH: Tensor, rows_N: Tensor) -> Tensor:
        """Return the logits of the cells of a row, empty ones at minus infinity.

        Args:
            logits_NC: by the columns' vectors.
            hidden_NH: what predicts.
            rows_N: the row of each position.
        """
        own_RCD = F.embedding(self.word_at_cell.clamp(min=0), self.vectors.weight)
        products = _products_by_row if rows_N.device.type == "cpu" else _products_at_once
        own_logits_NC = products(self.predicting(hidden_NH), own_RCD, rows_N)
        is_spare_NC = self.word_at_cell[rows_N] == SPARE
        return (logits_NC + own_logits_NC).masked_fill(is_spare_NC, -torch.inf)


def _products_at_once(query_ND: Tensor, own_RCD: Tensor, rows_N: Tensor) -> Tensor:
    """Return each query's products with the vectors of its row, [N, C], in a few large kernels."""
    own_NCD = F.embedding(rows_N, own_RCD.flatten(1)).view(-1, *own_RCD.shape[1:])
    return torch.bmm(own_NCD, query_ND.unsqueeze(2)).squeeze(2)


def _products_by_row(query_ND: Tensor, own_RCD: Tensor, rows_N: Tensor) -> Tensor:
    """Return the same by many small products, without a copy of the row's vectors for each query.

    On a CPU, where memory is what takes time, this is several times faster.
    """
    order_N = rows_N.argsort(stable=True)
    num_queries = rows_N.bincount(minlength=len(own_RCD)).tolist()
    parts = [
        query @ own_CD.t()
        for query, own_CD in zip(
            torch.split(query_ND[order_N], num_queries), own_RCD.unbind(), strict=True
        )
        if len(query)
    ]
    return torch.cat(parts)[order_N.argsort()]
