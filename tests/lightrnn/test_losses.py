"""The loss in chunks is the loss at once, and so are its gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightrnn.losses import linear_cross_entropy

N, H, R = 53, 11, 37
IGNORED = -1


def drawn(seed: int) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(seed)
    hidden = torch.randn(N, H, requires_grad=True)
    head = nn.Linear(H, R)
    nn.init.normal_(head.weight, std=3.0)
    cells = torch.randint(0, R, (N,))
    cells[[0, 17, N - 1]] = IGNORED
    return hidden, head, cells


def with_gradients(loss: Tensor, hidden: Tensor, head: nn.Linear) -> list[Tensor]:
    return [loss, *torch.autograd.grad(0.3 * loss, [hidden, head.weight, head.bias])]


@pytest.mark.parametrize("chunk_size", [0, 1, 7, N - 1, N, 1000])
def test_chunks_change_nothing(chunk_size: int) -> None:
    hidden, head, cells = drawn(1)
    plain = F.cross_entropy(head(hidden), cells, ignore_index=IGNORED, reduction="sum")
    loss = linear_cross_entropy(hidden, head, cells, ignored=IGNORED, chunk_size=chunk_size)
    expected, found = with_gradients(plain, hidden, head), with_gradients(loss, hidden, head)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_bfloat16_products_with_a_float32_sum() -> None:
    """Band: 8 bits of mantissa in each product; far closer than bfloat16 sums would be."""
    hidden, head, cells = drawn(2)
    exact = with_gradients(linear_cross_entropy(hidden, head, cells, ignored=IGNORED), hidden, head)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, head, cells, ignored=IGNORED, chunk_size=7)
    assert loss.dtype == torch.float32
    for one, other in zip(with_gradients(loss, hidden, head), exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.02 * other.norm()


def test_nothing_to_predict_costs_nothing() -> None:
    hidden, head, _ = drawn(3)
    cells = torch.full((N,), IGNORED)
    loss = linear_cross_entropy(hidden, head, cells, ignored=IGNORED, chunk_size=10)
    assert all(tensor.abs().max() == 0 for tensor in with_gradients(loss, hidden, head))


def test_evaluation_keeps_no_gradient() -> None:
    hidden, head, cells = drawn(4)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, head, cells, ignored=IGNORED, chunk_size=10)
    assert not loss.requires_grad
    expected = F.cross_entropy(head(hidden), cells, ignore_index=IGNORED, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_no_more_logits_are_held_than_a_chunk_has(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, linear = [], F.linear

    def watched(hidden: Tensor, *parameters: Tensor) -> Tensor:
        sizes.append(len(hidden))
        return linear(hidden, *parameters)

    monkeypatch.setattr(F, "linear", watched)
    hidden, head, cells = drawn(5)
    linear_cross_entropy(hidden, head, cells, ignored=IGNORED, chunk_size=10).backward()
    assert sizes == [10, 10, 10, 10, 10, 3]
