"""How long each rank works and waits in a step, so that a slow one shows."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Pace:
    """Sums over steps, of this rank.

    In a step all ranks wait for the slowest one, so its length is the same everywhere. What differs
    is a rank's own work until it first has to wait for another: its batch and the forward pass.

    Attributes:
        device: where the rank computes.
        steps: number of steps.
        step_seconds: their length.
        data_wait_seconds: what they waited for their batches.
        forward_seconds: of their forward passes, on a CPU.
    """

    device: torch.device
    steps: int = 0
    step_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    forward_seconds: float = 0.0
    _on_gpu: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Measure a forward pass, on a GPU without waiting for it."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            yield
            self.forward_seconds += time.perf_counter() - started
            return
        begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record()
        yield
        end.record()
        self._on_gpu.append((begin, end))

    def a_step(self) -> Tensor:
        """Return the length of a step, own work and waiting for data, float64 [3] in seconds.

        The device has to have caught up.
        """
        milliseconds = sum(begin.elapsed_time(end) for begin, end in self._on_gpu)
        own = self.data_wait_seconds + self.forward_seconds + milliseconds / 1000
        sums = [self.step_seconds, own, self.data_wait_seconds]
        return torch.tensor(sums, dtype=torch.float64) / max(self.steps, 1)


def paces_of_ranks(paces_W3: Tensor) -> dict[str, float | int]:
    """Return what the metrics tell of all ranks' steps: mean and most of each, and who is slowest.

    Args:
        paces_W3: what `Pace.a_step` gave on each rank.
    """
    values: dict[str, float | int] = {}
    for name, seconds_W in zip(("step", "own", "data_wait"), paces_W3.T, strict=True):
        values[f"{name}_seconds_mean"] = float(seconds_W.mean())
        values[f"{name}_seconds_max"] = float(seconds_W.max())
    return {**values, "slowest_rank": int(paces_W3[:, 1].argmax())}
