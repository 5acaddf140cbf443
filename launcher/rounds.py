"""When words are moved: at given epochs, or when validation stops improving."""

from dataclasses import dataclass, replace

from launcher.settings import AllocationSettings

ROUNDING = 1e-9
"""What the quotient of a step by a period may be below a whole number that it stands for."""


@dataclass(frozen=True)
class Rounds:
    """How far the rounds of training and reallocation are; saved with every checkpoint.

    Attributes:
        done: reallocations so far.
        last_perplexity: of the validation before this one, since the last reallocation; 0 for none.
        due: whether a reallocation is to follow before the next step.
    """

    done: int = 0
    last_perplexity: float = 0.0
    due: bool = False

    def after_validation(
        self, perplexity: float, settings: AllocationSettings
    ) -> tuple["Rounds", bool]:
        """Return the next state, and whether validation has stopped improving (Li et al., 4.2)."""
        stalled = self.last_perplexity > 0 and perplexity > self.last_perplexity * (
            1.0 - settings.min_improvement
        )
        due = settings.when == "plateau" and stalled and self.done < settings.max_rounds
        return replace(self, last_perplexity=perplexity), due

    def before_reallocation(self) -> "Rounds":
        """Return the state in which a reallocation is due."""
        return replace(self, due=True)

    def after_reallocation(self) -> "Rounds":
        """Return the state that a new round starts with."""
        return Rounds(done=self.done + 1)


def steps_at(epochs: tuple[float, ...], steps_per_epoch: int) -> frozenset[int]:
    """Return the step counts that lie nearest to these epochs, each at least 1."""
    return frozenset(max(1, round(epoch * steps_per_epoch)) for epoch in epochs)


def is_multiple(step: int, epochs: float, steps_per_epoch: int) -> bool:
    """Return whether `step` is the first step at or after a multiple of `epochs`."""
    period = max(1.0, epochs * steps_per_epoch)
    return int(step / period + ROUNDING) > int((step - 1) / period + ROUNDING)
