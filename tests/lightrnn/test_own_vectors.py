"""Both ways to the products of states with the words of a row give the same, with gradients.

Legend: N positions, D own numbers, R rows, C columns.
"""

import pytest
import torch

from lightrnn import own_vectors


@pytest.mark.parametrize("num_positions", [1, 40])
def test_products_by_row_are_those_at_once(num_positions: int) -> None:
    generator = torch.Generator().manual_seed(num_positions)
    rows_N = torch.randint(9, (num_positions,), generator=generator, dtype=torch.int32)
    found = []
    for products in (own_vectors._products_at_once, own_vectors._products_by_row):
        generator.manual_seed(0)
        query_ND = torch.randn(num_positions, 4, generator=generator).requires_grad_()
        own_RCD = torch.randn(9, 5, 4, generator=generator).requires_grad_()
        logits_NC = products(query_ND, own_RCD, rows_N)
        (logits_NC * torch.randn(num_positions, 5, generator=generator)).sum().backward()
        assert query_ND.grad is not None
        assert own_RCD.grad is not None
        found.append((logits_NC.detach(), query_ND.grad, own_RCD.grad))
    for at_once, by_row in zip(*found, strict=True):
        torch.testing.assert_close(by_row, at_once)
    logits_NC, _, own_grad_RCD = found[0]
    expected = own_RCD.detach()[rows_N.long()] @ query_ND.detach()[:, :, None]
    torch.testing.assert_close(logits_NC, expected[:, :, 0])
    # Rows that no position has get no gradient.
    assert own_grad_RCD.abs().sum((1, 2)).bool().tolist() == [
        row in rows_N.tolist() for row in range(9)
    ]
