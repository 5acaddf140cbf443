"""The auction equals the exact solver, within its precision, on thousands of small instances."""

import numpy as np
import pytest
from allocation_instances import ADVERSARIES, adversarial_costs, magnitude, random_start, silent

from allocation.costs import CellCosts, DenseCosts
from allocation.solvers import solve_auction, solve_exact
from allocation.solvers.auction import PRECISION

SINGLE_PRECISION = 2.0**-20
"""Bids are made by losses in float32, each a difference to the least one."""


def compare(costs: CellCosts) -> None:
    start = random_start(costs)
    optimum = solve_exact(costs, start, silent).objective
    solution = solve_auction(costs, start, silent)
    spread = sum(
        float((loss.mean(axis=1) - loss.min(axis=1)).sum()) for loss in costs.losses(slice(None))
    )
    rounding = SINGLE_PRECISION * sum(
        float(np.ptp(loss, axis=1).sum()) for loss in costs.losses(slice(None))
    )
    tolerance = PRECISION * spread + rounding + 1e-14 * magnitude(costs)
    assert optimum - tolerance <= solution.objective <= optimum + tolerance
    assert solution.lower_bound >= solution.objective - tolerance


def test_thousands_of_random_tables_have_the_optimum() -> None:
    for seed in range(2500):
        random = np.random.default_rng(seed)
        num_rows, num_columns = random.integers(1, 8, size=2)
        num_words = random.integers(1, num_rows * num_columns + 1)
        counts_V = random.zipf(1.4, size=num_words).clip(max=10**6) - 1
        # Every other instance has ties.
        losses = [random.exponential(size=(num_words, size)) for size in (num_rows, num_columns)]
        if seed % 2:
            losses = [np.floor(3 * loss) for loss in losses]
        compare(DenseCosts(*(counts_V[:, None] * loss for loss in losses), counts_V))


@pytest.mark.parametrize("adversary", list(ADVERSARIES))
def test_hard_losses_have_the_optimum(adversary: str) -> None:
    for seed in range(10):
        for costs in adversarial_costs(adversary, absent=seed % 2 == 1, seed=seed):
            compare(costs)
