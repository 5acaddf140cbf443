"""How far words may move at once, and whether what they gain is real.

A reallocation predicts its gain with hidden states held fixed, though words that move change the
inputs of all later steps. So it starts from a bonus for staying, the true loss is measured on
held-out text with the new table, and where that is worse than is tolerated, the bonus doubles and
fewer words move. A trust region in the sense of Levenberg and Marquardt, with the bonus as damping.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Moves = Literal["all", "columns"]

FIRST_BONUS = 0.1
"""What follows a bonus of zero, nats a token."""


@dataclass(frozen=True)
class TrustRegion:
    """Which moves are tried, and which are taken.

    Attributes:
        moves: `all` cells, or the `columns` of each word's own row only.
        stay_bonus: what leaving the row costs at first, and leaving the column once more; nats a
            token.
        tolerance: by how much the loss on held-out text may rise at once; nats a token.
        max_tries: bonuses tried, each twice the one before; 0 takes the first table unmeasured.
    """

    moves: Moves = "all"
    stay_bonus: float = 0.0
    tolerance: float = 0.0
    max_tries: int = 0


@dataclass(frozen=True)
class Try:
    """A table that was tried; losses in nats a token.

    Attributes:
        stay_bonus: what leaving row or column cost.
        loss_predicted: on the training text, with hidden states held fixed and without the bonus.
        held_out_loss: measured on held-out text; None where it was not.
        objective: what the solver minimised, with the bonus.
        lower_bound: no table has a smaller `objective`.
        gap_percent: how far `objective` may lie above the optimum, in percent of it.
        words_moved: words that have another cell than before.
        tokens_moved_fraction: their share of the training tokens.
    """

    stay_bonus: float
    loss_predicted: float
    held_out_loss: float | None
    objective: float
    lower_bound: float
    gap_percent: float
    words_moved: int
    tokens_moved_fraction: float


def search(
    region: TrustRegion, loss_before: float | None, attempt: Callable[[float], Try]
) -> tuple[list[Try], int | None]:
    """Try bonuses until one more does no better than the best one that is tolerated.

    Args:
        region: which tables are tried and taken.
        loss_before: on held-out text with the table in force, nats a token; None where tables are
            taken unmeasured.
        attempt: solves with a bonus, and measures.

    Returns:
        All tries, and the number of the one to take; None where the table had better stay.
    """
    tries: list[Try] = []
    best: int | None = None
    bonus = region.stay_bonus
    for number in range(max(region.max_tries, 1)):
        tries.append(attempt(bonus))
        measured = tries[-1].held_out_loss
        if loss_before is None or measured is None:
            return tries, number
        least = loss_before + region.tolerance if best is None else tries[best].held_out_loss
        assert least is not None
        if measured <= least and (best is None or measured < least):
            best = number
        elif best is not None:
            break
        bonus = 2 * bonus or FIRST_BONUS
    return tries, best
