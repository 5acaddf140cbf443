"""The cross entropy of a linear layer's logits, without ever holding all logits.

Logits of a whole batch take N * R numbers, their gradient as many. Here a chunk of the positions
at a time gets its logits, its loss and at once its share of all gradients, so that what is held
does not grow with the batch. The gradient of a sum is linear in the gradient that comes from above,
so it can be computed before that is known and be scaled by it later.

Legend: N positions, H hidden, R cells of one kind: rows or columns.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""About how many logits a chunk holds, by the kind of device."""


def linear_cross_entropy(
    hidden_NH: Tensor, head: nn.Linear, cells_N: Tensor, *, ignored: int, chunk_size: int = 0
) -> Tensor:
    """Return the summed -log softmax(head(hidden))[cell], in nats, scalar, computed in float32.

    Under autocast the matrix products are of its type; all else stays float32.

    Args:
        hidden_NH: what predicts.
        head: from H to R.
        cells_N: int64; the cell to predict of each position.
        ignored: the cell of positions that take no part.
        chunk_size: positions at a time; 0 for as many as suit the device.
    """
    if not chunk_size:
        numbers = CHUNK_NUMBERS.get(hidden_NH.device.type, CHUNK_NUMBERS["cuda"])
        chunk_size = max(16, numbers // head.out_features)
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_NH, head.weight, head.bias, cells_N, ignored, chunk_size, torch.is_grad_enabled()
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_RH: Tensor,
        bias_R: Tensor,
        cells_N: Tensor,
        ignored: int,
        chunk_size: int,
        wants_gradient: bool,
    ) -> Tensor:
        loss = torch.zeros((), device=hidden_NH.device)
        if wants_gradient:
            gradients = tuple(map(torch.zeros_like, (hidden_NH, weight_RH, bias_R)))
        parts = (torch.split(tensor, chunk_size) for tensor in (hidden_NH, cells_N))
        for number, (hidden, cells) in enumerate(zip(*parts, strict=True)):
            counted = cells != ignored
            places = cells.clamp(min=0).unsqueeze(1)
            log_chances = F.linear(hidden, weight_RH, bias_R).float().log_softmax(1)
            loss -= log_chances.gather(1, places).squeeze(1).masked_fill_(~counted, 0.0).sum()
            if not wants_gradient:
                continue
            slopes_NR = _less_one_at(log_chances.exp_(), places, counted)
            product_type = _product_type(hidden)
            slopes = slopes_NR.to(product_type)
            grad_hidden_NH, grad_weight_RH, grad_bias_R = gradients
            start = number * chunk_size
            grad_hidden_NH[start : start + len(hidden)] = slopes @ weight_RH.to(product_type)
            if product_type == grad_weight_RH.dtype:
                grad_weight_RH.addmm_(slopes.t(), hidden)
            else:
                grad_weight_RH += slopes.t() @ hidden.to(product_type)
            grad_bias_R += slopes_NR.sum(0)
        if wants_gradient:
            ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NH, grad_weight_RH, grad_bias_R = ctx.saved_tensors
        return (
            grad_hidden_NH * grad,
            grad_weight_RH * grad,
            grad_bias_R * grad,
            *(None,) * 4,
        )


def _less_one_at(chances_NR: Tensor, places_N1: Tensor, counted_N: Tensor) -> Tensor:
    """Turn probabilities into the loss's slopes: less one at the places, none where not counted."""
    ones_N1 = torch.ones_like(places_N1, dtype=chances_NR.dtype)
    chances_NR.scatter_add_(1, places_N1, -ones_N1)
    return chances_NR.mul_(counted_N.unsqueeze(1))


def _product_type(like: Tensor) -> torch.dtype:
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
