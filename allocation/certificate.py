"""The proof that a table is near the best: prices of cells, and the bound that follows from them.

For any prices `p >= 0` of the cells, every table costs at least

    sum_w min_cell (loss[w, cell] + p[cell]) - sum_cell p[cell]

(weak duality of the assignment problem): a table puts at most one word in a cell, so together its
words pay at most all prices, and each pays with them at least its least loss + price. A solver that
ends with good prices has proved its table; a poor one only has a poor bound, never a wrong one.
"""

import math

from allocation.candidates import LossArray
from allocation.costs import CellCosts
from allocation.errors import AllocationError

ROUNDING = 2.0**-50
"""Share of all that is added up which rounding may have added to a bound, and is taken off."""


def lower_bound(costs: CellCosts, prices_RC: LossArray) -> float:
    """Return what every table costs at least, in nats.

    Args:
        costs: what each word costs in each cell.
        prices_RC: price of each cell in nats, float64 [R, C].

    Raises:
        AllocationError: a price is negative or not finite, or there are not R x C of them.
    """
    expected = costs.num_rows, costs.num_columns
    if prices_RC.shape != expected or not (prices_RC >= 0).all() or math.isinf(prices_RC.max()):
        raise AllocationError(
            f"prices have shape {prices_RC.shape} and the least {prices_RC.min()}, expected "
            f"{expected} finite prices, 0 or more"
        )
    least_costs = costs.least_costs(prices_RC).tolist()
    prices = prices_RC[prices_RC > 0].tolist()
    added = math.fsum(map(abs, least_costs)) + math.fsum(prices)
    return math.fsum(least_costs) - math.fsum(prices) - ROUNDING * added
