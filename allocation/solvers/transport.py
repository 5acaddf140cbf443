"""Prices of cells that need no solver: rows and columns as two transportation problems.

Legend: V words, L lines (the rows or the columns), R rows, C columns.
"""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from allocation.costs import CellCosts, LossArray

TEMPERATURES = (1e-1, 1e-2, 1e-3)
"""Smoothing, one after the other, in parts of what a typical word has to lose."""

MIN_GAIN = 1e-4
"""A lower temperature that raises the bound by a smaller share ends the ascent."""

STEPS_PER_TEMPERATURE = 100
WORDS_PER_BLOCK = 4096

MAX_CHEAP_LOSSES = 1 << 23
"""Losses by row and by column, for which `cheap_prices` still takes no more than seconds."""


def cheap_prices(costs: CellCosts) -> LossArray:
    """Return prices for the bound of a solver that has none, float64 [R, C].

    Those of `transport_prices` for small problems. For large ones zeros, whose bound is what the
    words would cost if each had its best cell, however many share it.
    """
    if costs.num_words * (costs.num_rows + costs.num_columns) <= MAX_CHEAP_LOSSES:
        return transport_prices(costs)
    return np.zeros((costs.num_rows, costs.num_columns))


def transport_prices(costs: CellCosts) -> LossArray:
    """Return prices of cells, each that of its row plus that of its column, float64 [R, C], nats.

    Lets words share a cell as long as no row holds more than C words and no column more than R.
    Rows and columns then fall apart into two transportation problems. Prices `p >= 0` of the lines
    bound each of them from below by its dual,

        sum_w min_i (loss[w, i] + p[i]) - capacity * sum_i p[i],

    and are chosen to make that large. The two bounds add up to that of the cells' prices. It says
    nothing of the words' fight for single cells: where words like the same rows and the same
    columns it stays low.

    Args:
        costs: what each word costs in each cell.
    """
    by_row, by_column = costs.losses(slice(None))
    row_prices = _ascend(by_row, capacity=costs.num_columns)
    column_prices = _ascend(by_column, capacity=costs.num_rows)
    return row_prices[:, None] + column_prices


def _ascend(losses_VL: npt.NDArray[np.floating], capacity: int) -> LossArray:
    """Return prices of the lines, float64 [L], that make the dual value large.

    The dual is concave with kinks. A soft minimum makes it smooth, with the shares of each word in
    the lines as gradient, for L-BFGS-B; the temperature falls step by step, and the best prices by
    the true dual are kept.
    """
    no_prices = np.zeros(losses_VL.shape[1])
    if len(losses_VL) <= capacity:
        return no_prices
    least_V = losses_VL.min(axis=1)
    spread_V = losses_VL.mean(axis=1) - least_V
    some = spread_V[spread_V > 0]
    if len(some) == 0:
        return no_prices
    scale = float(np.median(some))
    best_value, best_prices = 0.0, no_prices

    def smoothed(prices: LossArray, temperature: float) -> tuple[float, LossArray]:
        """The negated dual and its gradient, by word, with prices in units of the scale."""
        nonlocal best_value, best_prices
        words_L = np.zeros(len(prices))
        true_value = soft_value = -capacity * float(prices.sum())
        for start in range(0, len(losses_VL), WORDS_PER_BLOCK):
            block = slice(start, start + WORDS_PER_BLOCK)
            shares = (losses_VL[block] - least_V[block, None]) / scale
            shares += prices
            paid = shares.min(axis=1, keepdims=True)
            shares -= paid
            shares /= -temperature
            np.exp(shares, out=shares)
            total = shares.sum(axis=1, keepdims=True)
            shares /= total
            words_L += shares.sum(axis=0)
            true_value += float(paid.sum())
            soft_value += float(paid.sum() - temperature * np.log(total).sum())
        if true_value > best_value:
            best_value, best_prices = true_value, prices.copy()
        return -soft_value / len(losses_VL), (capacity - words_L) / len(losses_VL)

    for temperature in TEMPERATURES:
        value_before = best_value
        minimize(
            smoothed,
            best_prices,
            args=(temperature,),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, None)] * len(no_prices),
            options={"maxiter": STEPS_PER_TEMPERATURE, "ftol": 1e-12, "gtol": 1e-9},
        )
        if value_before > 0 and best_value - value_before <= MIN_GAIN * best_value:
            break
    prices: LossArray = np.maximum(best_prices, 0.0) * scale
    return prices
