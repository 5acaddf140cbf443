"""How low the loss could be at all: bounds that need no solver to compare with.

Legend: V words, L lines (the rows or the columns), R rows, C columns.
"""

import math

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


def transport_lower_bound(costs: CellCosts) -> float:
    """Bound the loss of every table from below, in nats.

    Lets words share a cell as long as no row holds more than C words and no column more than R.
    Rows and columns then fall apart into two transportation problems. Each is bounded by its dual:
    for *any* prices `p >= 0` of the lines,

        sum_w min_i (loss[w, i] + p[i]) - capacity * sum_i p[i]

    is at most the optimum (weak duality), so the prices only decide how good the bound is, not
    whether it holds. What rounding could add is taken off. The bound says nothing of the words'
    fight for single cells: where words like the same rows and the same columns it stays low.

    Args:
        costs: what each word costs in each cell.

    Returns:
        A number not above the objective of any table.
    """
    terms: list[float] = []
    by_row, by_column = costs.losses(slice(None))
    for loss_VL, capacity in (
        (by_row.astype(np.float64), costs.num_columns),
        (by_column.astype(np.float64), costs.num_rows),
    ):
        if not len(loss_VL):
            continue
        least_V = loss_VL.min(axis=1)
        prices_L = _ascend(loss_VL, least_V, capacity)
        paid_V = np.concatenate(
            [
                (loss_VL[block] - least_V[block, None] + prices_L).min(axis=1)
                for block in _blocks(len(loss_VL))
            ]
        )
        raised = math.fsum(paid_V.tolist())
        taken = capacity * math.fsum(prices_L.tolist())
        # Where the ascent gained nothing, prices of zero are best: the sum of each word's least.
        terms += least_V.tolist()
        # Each of a word's two roundings is off by at most 2**-53 of what the word pays.
        certain = raised - taken - 2.0**-50 * (raised + taken)
        if certain > 0:
            terms.append(certain)
    # Rounded once at the end, as `CellCosts.objective` is, so that the order is kept.
    return math.fsum(terms)


def _ascend(loss_VL: LossArray, least_V: LossArray, capacity: int) -> LossArray:
    """Return prices of the lines, float64 [L], that make the dual value large.

    The dual is concave with kinks. A soft minimum makes it smooth, with the shares of each word in
    the lines as gradient, for L-BFGS-B; the temperature falls step by step, and the best prices by
    the true dual are kept.
    """
    spread_V = loss_VL.mean(axis=1) - least_V
    some = spread_V[spread_V > 0]
    no_prices = np.zeros(loss_VL.shape[1])
    if len(some) == 0 or len(loss_VL) <= capacity:
        return no_prices
    scale = float(np.median(some))
    best_value, best_prices = 0.0, no_prices

    def smoothed(prices: LossArray, temperature: float) -> tuple[float, LossArray]:
        """The negated dual and its gradient, by word, with prices in units of the scale."""
        nonlocal best_value, best_prices
        words_L = np.zeros(len(prices))
        true_value = soft_value = -capacity * float(prices.sum())
        for block in _blocks(len(loss_VL)):
            shares = (loss_VL[block] - least_V[block, None]) / scale
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
        return -soft_value / len(loss_VL), (capacity - words_L) / len(loss_VL)

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
    prices: npt.NDArray[np.float64] = np.maximum(best_prices, 0.0) * scale
    return prices


def _blocks(num_words: int) -> list[slice]:
    return [slice(i, i + WORDS_PER_BLOCK) for i in range(0, num_words, WORDS_PER_BLOCK)]
