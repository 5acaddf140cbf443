"""Steps that are left out since their loss or gradient is not finite."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Skipped:
    """How many steps were left out; saved with every checkpoint.

    Attributes:
        total: since the run began.
        in_a_row: up to now.
    """

    total: int = 0
    in_a_row: int = 0

    def after_step(self, *, finite: bool) -> "Skipped":
        """Return the counts after a step that was taken or left out."""
        if finite:
            return Skipped(self.total)
        return Skipped(self.total + 1, self.in_a_row + 1)


class Arriving:
    """A number on its way from the device, which goes on with its work meanwhile."""

    def __init__(self, value: Tensor) -> None:
        self._on_host = value.to("cpu", non_blocking=True)
        self._arrival = torch.Event(value.device) if value.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def wait(self) -> Tensor:
        """Return it as soon as it is there; what the device got to do since is not waited for."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._on_host
