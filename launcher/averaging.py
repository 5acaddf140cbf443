"""Parameters averaged over the steps: often better on held-out text than those of any one step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

AVERAGES = "averaged."
"""Of the names of averaged parameters in a checkpoint."""


class AveragedParameters:
    """An exponential moving average of a model's parameters; the same on every rank.

    The first steps count alike, until `1 / (1 - decay)` of them are in the average.

    Args:
        model: whose parameters are averaged, from what they are now.
        decay: share of the average that a step leaves, 0 < decay < 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._averages = {name: one.detach().clone() for name, one in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after `step` steps, at least 1."""
        weight = max(1.0 - self._decay, 1.0 / step)
        for name, parameter in self._model.named_parameters():
            self._averages[name].lerp_(parameter, weight)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model have the averages meanwhile."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def tensors(self) -> dict[str, Tensor]:
        """Return the averages by their names in a checkpoint; they are not copied."""
        return {f"{AVERAGES}{name}": average for name, average in self._averages.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew from what the model has now."""
        for name, parameter in self._model.named_parameters():
            self._averages[name].copy_(parameter)

    @torch.no_grad()
    def _swap(self) -> None:
        # Values, not memory: kernels on GPUs need the parameters of a layer where they lie.
        for name, parameter in self._model.named_parameters():
            own = parameter.clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(own)
