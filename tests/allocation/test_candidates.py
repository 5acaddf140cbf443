"""A look at few cells finds the least loss + price, or says that it does not know."""

import numpy as np
import pytest

from allocation.candidates import least_by_few_lines, line_prices_of
from allocation.costs import DenseCosts


@pytest.mark.parametrize("share_of_priced", [0.0, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("highest_price", [0.5, 50.0])
def test_what_is_known_is_the_least_of_all_cells(
    highest_price: float, share_of_priced: float
) -> None:
    random = np.random.default_rng(1)
    by_row, by_column = random.exponential(size=(2, 60, 150))
    prices_RC = random.random((150, 150)) * highest_price
    prices_RC[random.random((150, 150)) >= share_of_priced] = 0
    least_N = least_by_few_lines(by_row, by_column, prices_RC, line_prices_of(prices_RC))
    known = ~np.isnan(least_N)
    expected_N = (by_row[:, :, None] + by_column[:, None, :] + prices_RC).min(axis=(1, 2))
    assert np.allclose(least_N[known], expected_N[known], rtol=1e-14, atol=0)
    # Only where nearly all cells have a high price may all rows and columns have to be looked at.
    assert known.all() or (highest_price == 50.0 and share_of_priced >= 0.9)
    # Costs search the others by sorted lines.
    costs = DenseCosts(np.vstack([by_row] * 2), np.vstack([by_column] * 2))
    assert np.allclose(costs.least_costs(prices_RC)[:60], expected_N, rtol=1e-14, atol=0)


def test_where_all_cells_could_be_better_nothing_is_known() -> None:
    # Each row has one cell without a price; that of the best row lies in a dear column.
    by_row, by_column = np.zeros((1, 150)), np.zeros((1, 150))
    by_column[0, 0] = 5.0
    prices_RC = np.where(np.eye(150) > 0, 0.0, 5.0)
    assert np.isnan(least_by_few_lines(by_row, by_column, prices_RC, line_prices_of(prices_RC)))
