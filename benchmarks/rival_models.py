"""Language models with vectors for every word: what LightRNN is measured against.

All have the recurrent layers, the dropout and the calls of `lightrnn.LightRNN`; they differ in how
the next word is predicted. Word ids fall with frequency, as in every corpus of `lightrnn prepare`:
the adaptive softmax and the drawn candidates rely on it.

Legend: B lanes, T words, N words of a batch, E embedding, H hidden, L layers, S state tensors
(LSTM 2, else 1), V words, K candidates.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightrnn.dropout import LaneDropout
from lightrnn.errors import LightRNNError
from lightrnn.model import NO_WORD, Cell

RivalName = Literal["full", "tied", "adaptive", "sampled", "fused"]
RIVALS: tuple[RivalName, ...] = get_args(RivalName)

KERNELS: dict[Cell, Callable[[int, int], nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn": nn.RNN,
}
NUM_CANDIDATES = 8192
REDUCTION_OF_WIDTH = 4
"""Of the adaptive softmax: each group of rarer words has vectors narrower by this factor."""


class RivalError(LightRNNError):
    """A rival cannot be built here, or not of these sizes."""


class WordLoss(NamedTuple):
    """Loss of one batch, and the state to go on with.

    Attributes:
        nll: summed -log P of each target, nats, scalar; of a sampled softmax in training, what it
            minimises instead.
        state: recurrent state after the last target, [S, L, B, H].
    """

    nll: Tensor
    state: Tensor


@dataclass(frozen=True)
class RivalShape:
    """All sizes that fix the parameters of a rival.

    Attributes:
        cutoffs: of the adaptive softmax, first ids of its groups of rarer words; without them
            the usual ones.
        num_candidates: K of the sampled softmax.

    Raises:
        RivalError: the vectors are tied at unequal widths.
    """

    name: RivalName
    num_words: int
    embedding_size: int
    hidden_size: int
    num_layers: int = 1
    cell: Cell = "lstm"
    cutoffs: tuple[int, ...] = ()
    num_candidates: int = NUM_CANDIDATES

    def __post_init__(self) -> None:
        if self.tied and self.embedding_size != self.hidden_size:
            raise RivalError(
                f"the rival {self.name} ties its vectors, found embedding_size="
                f"{self.embedding_size} and hidden_size={self.hidden_size}; make them equal"
            )

    @property
    def tied(self) -> bool:
        """Whether input vectors are output vectors too."""
        return self.name in ("tied", "sampled", "fused")


class Rival(nn.Module):
    """A recurrent network that reads a vector a word and predicts words by one of the heads.

    Args:
        shape: sizes, and which head.
        dropout: probability on the vectors going in, between layers, and on the hidden states
            that predict.
    """

    def __init__(self, shape: RivalShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.num_words, shape.embedding_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        widths = [shape.embedding_size] + [shape.hidden_size] * (shape.num_layers - 1)
        kernel = KERNELS[shape.cell]
        self.layers = nn.ModuleList(kernel(width, shape.hidden_size) for width in widths)
        self.dropouts = nn.ModuleList(
            LaneDropout(dropout, place) for place in range(shape.num_layers + 1)
        )
        self.head = make_head(shape, self.embedding.weight if shape.tied else None)

    @property
    def num_parameters(self) -> int:
        """Trained numbers; tied vectors count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.embedding.weight.device

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
    ) -> WordLoss:
        """Return the summed loss of `targets_BT`, each predicted from all words before it.

        Args:
            inputs_BT: the word before each target, integer [B, T].
            targets_BT: words to predict, integer [B, T]; `NO_WORD` where a lane has ended.
            state: recurrent state, [S, L, B, H].
            dropout_keys: of `lightrnn.dropout`, needed for reproducible dropout in training.
        """
        keys_B = None if dropout_keys is None else dropout_keys[1:]
        hidden = self.dropouts[0](self.embedding(inputs_BT.t()), keys_B)
        new_states = []
        for layer, dropout, layer_state in zip(
            self.layers, list(self.dropouts)[1:], state.unbind(1), strict=True
        ):
            tensors_1BH = tuple(tensor.unsqueeze(0) for tensor in layer_state)
            hidden, new = layer(hidden, tensors_1BH if len(tensors_1BH) == 2 else tensors_1BH[0])
            hidden = dropout(hidden, keys_B)
            new_states.append(torch.cat(new if isinstance(new, tuple) else (new,)))
        nll = self.head(hidden.flatten(0, 1), targets_BT.t().flatten().long())
        return WordLoss(nll, torch.stack(new_states, dim=1))


def make_head(shape: RivalShape, tied_weight_VH: Tensor | None) -> nn.Module:
    """Return what predicts: a module from `(hidden_NH, targets_N)` to the summed loss, nats.

    Raises:
        RivalError: a package that the head needs is not installed.
    """
    match shape.name:
        case "adaptive":
            return AdaptiveSoftmax(shape)
        case "sampled":
            return SampledSoftmax(shape, tied_weight_VH)
        case "fused":
            return FusedSoftmax(shape, tied_weight_VH)
        case _:
            return FullSoftmax(shape, tied_weight_VH)


class FullSoftmax(nn.Module):
    """A softmax over all words, all logits of the batch at once, as one writes it in PyTorch.

    Args:
        shape: sizes.
        tied_weight_VH: vectors to share; without them it has its own.
    """

    def __init__(self, shape: RivalShape, tied_weight_VH: Tensor | None = None) -> None:
        super().__init__()
        self.num_words = shape.num_words
        if tied_weight_VH is None:
            width = shape.hidden_size
            tied_weight_VH = nn.Parameter(torch.empty(shape.num_words, width))
            nn.init.uniform_(tied_weight_VH, -(width**-0.5), width**-0.5)
        self.weight = tied_weight_VH
        self.bias = nn.Parameter(torch.zeros(shape.num_words))

    def forward(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return the summed loss of the targets that are words."""
        logits_NV = F.linear(hidden_NH, self.weight, self.bias).float()
        return F.cross_entropy(logits_NV, targets_N, ignore_index=NO_WORD, reduction="sum")


class SampledSoftmax(FullSoftmax):
    """In training a softmax over the target and K words drawn for the batch; else over all words.

    Words are drawn with replacement, rank `r` (from 0) with the probability
    `log((r + 2) / (r + 1)) / log(V + 1)`; each logit is corrected by the log of how often its word
    is expected (Jean et al., 2015, https://arxiv.org/abs/1412.2007).
    """

    def __init__(self, shape: RivalShape, tied_weight_VH: Tensor | None = None) -> None:
        super().__init__(shape, tied_weight_VH)
        self.num_candidates = min(shape.num_candidates, shape.num_words)

    def forward(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return the summed loss of the targets that are words."""
        if not self.training:
            return super().forward(hidden_NH, targets_N)
        is_word_N = targets_N != NO_WORD
        words_N = targets_N.clamp(min=0)
        drawn_K = self._draw(hidden_NH.device)
        drawn_logits_NK = F.linear(
            hidden_NH, F.embedding(drawn_K, self.weight), self.bias[drawn_K]
        ).float()
        drawn_logits_NK = drawn_logits_NK - self._log_expected(drawn_K)
        drawn_logits_NK = drawn_logits_NK.masked_fill(drawn_K == words_N[:, None], -math.inf)
        own_vectors_NH = F.embedding(words_N, self.weight)
        own_logits_N = (hidden_NH * own_vectors_NH).float().sum(-1) + self.bias[words_N]
        own_logits_N = own_logits_N - self._log_expected(words_N)
        logits_N1K = torch.cat([own_logits_N[:, None], drawn_logits_NK], dim=1)
        nll_N = logits_N1K.logsumexp(-1) - own_logits_N
        return (nll_N * is_word_N).sum()

    def _draw(self, device: torch.device) -> Tensor:
        uniform_K = torch.rand(self.num_candidates, dtype=torch.float64, device=device)
        ranks_K = torch.exp(uniform_K * math.log(self.num_words + 1)) - 1
        return ranks_K.long().clamp_(max=self.num_words - 1)

    def _log_expected(self, words: Tensor) -> Tensor:
        share = torch.log1p(1 / (words.double() + 1)) / math.log(self.num_words + 1)
        return (self.num_candidates * share).log().float()


class FusedSoftmax(FullSoftmax):
    """A softmax over all words that never keeps all logits; for GPUs, from `liger-kernel`.

    Raises:
        RivalError: the package is not installed.
    """

    def __init__(self, shape: RivalShape, tied_weight_VH: Tensor | None = None) -> None:
        super().__init__(shape, tied_weight_VH)
        try:
            from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
        except ImportError as error:
            raise RivalError(
                f"the rival fused needs the package liger-kernel ({error}); install it with "
                "`pip install liger-kernel` on a machine with a GPU, or leave the rival out"
            ) from error
        self.loss = LigerFusedLinearCrossEntropyLoss(ignore_index=NO_WORD, reduction="sum")

    def forward(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return the summed loss of the targets that are words."""
        # The library computes in the type that it is given, whatever autocast says.
        weight_VH, bias_V = self.weight.to(hidden_NH.dtype), self.bias.to(hidden_NH.dtype)
        loss: Tensor = self.loss(weight_VH, hidden_NH, targets_N, bias_V)
        return loss.float()


class AdaptiveSoftmax(nn.Module):
    """Frequent words in one softmax, rarer ones in groups with narrower vectors, from PyTorch."""

    def __init__(self, shape: RivalShape) -> None:
        super().__init__()
        cutoffs = shape.cutoffs or usual_cutoffs(shape.num_words)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(
            shape.hidden_size, shape.num_words, list(cutoffs), div_value=REDUCTION_OF_WIDTH
        )

    def forward(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return the summed loss of the targets that are words."""
        is_word_N = targets_N != NO_WORD
        log_probabilities_N, _ = self.softmax(hidden_NH[is_word_N], targets_N[is_word_N])
        nll: Tensor = -log_probabilities_N.float().sum()
        return nll


def usual_cutoffs(num_words: int) -> tuple[int, ...]:
    """Return cutoffs at 1/200, 1/20 and 1/4 of V, an integer of at least 2.

    So its authors cut One Billion Words: 4,000, 40,000 and 200,000 of 793,471 words.
    """
    return tuple(sorted({max(1, num_words // share) for share in (200, 20, 4)}))
