"""Where the time of a training step goes: `--profile N`."""

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

WARM_UP_STEPS = 5
"""Steps before those that are profiled: the first ones make buffers."""

_KINDS = {
    "recurrent kernel": re.compile(r"rnn|lstm|gru", re.IGNORECASE),
    "matrix products": re.compile(r"^aten::(mm|bmm|addmm_?|addbmm|baddbmm|_?linear)$"),
    "softmax": re.compile(r"softmax|LinearCrossEntropy|nll_loss", re.IGNORECASE),
    "optimizer": re.compile(r"^Optimizer\.|_norm$|_fused_"),
}
"""What operators belong to, by their own name or that of what called them; the first that fits."""

_MESSAGES = re.compile(r"^(gloo|nccl):|^ncclDevKernel")
REST, DATA, MESSAGES = "rest", "data wait", "communication"


@dataclass(frozen=True)
class StepProfile:
    """Where the time of some steps went.

    Attributes:
        seconds_per_step: on the clock.
        shares: of that time, by what it was spent on; communication only where nothing else went
            on beside it. They sum to 1.
        trace: for `chrome://tracing` or Perfetto.
    """

    seconds_per_step: float
    shares: dict[str, float]
    trace: str


class StepProfiler:
    """Profiles some steps of a rank once the first ones are over.

    Args:
        num_steps: how many; 0 for none.
        trace: file for the trace.
        device: where the steps are computed.
    """

    def __init__(self, num_steps: int, trace: Path, device: torch.device) -> None:
        self._num_steps = num_steps
        self._trace = trace
        self._device = device
        self._seen = 0
        self._profile: Any = None

    @property
    def is_on(self) -> bool:
        """Whether the steps now taken are profiled."""
        return self._profile is not None

    def next_step(self, data_wait_seconds: float) -> StepProfile | None:
        """Hear that a step begins; return the profile where the last one is over.

        Args:
            data_wait_seconds: how long this rank has waited for batches since it began.
        """
        if not self._num_steps:
            return None
        self._seen += 1
        if self._seen == WARM_UP_STEPS + 1:
            self._start(data_wait_seconds)
        elif self._seen == WARM_UP_STEPS + self._num_steps + 1:
            return self._stop(data_wait_seconds)
        return None

    def close(self) -> None:
        """Leave off, where training ends too soon."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _start(self, data_wait_seconds: float) -> None:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)
        self._profile.start()
        self._started, self._waited = time.perf_counter(), data_wait_seconds

    def _stop(self, data_wait_seconds: float) -> StepProfile:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._started
        profiled, self._profile = self._profile, None
        profiled.stop()
        self._trace.parent.mkdir(parents=True, exist_ok=True)
        profiled.export_chrome_trace(str(self._trace))
        spent = seconds_by_kind(profiled.events(), on_device=self._device.type == "cuda")
        spent[DATA] = data_wait_seconds - self._waited
        spent[REST] = max(0.0, seconds - sum(spent.values()))
        total = sum(spent.values())
        shares = {kind: spent[kind] / total for kind in (*_KINDS, MESSAGES, DATA, REST)}
        return StepProfile(seconds / self._num_steps, shares, str(self._trace))


def seconds_by_kind(events: Iterable[Any], *, on_device: bool) -> dict[str, float]:
    """Return the seconds of operators and messages by kind; operators of no kind are left out.

    Args:
        events: of PyTorch's profiler.
        on_device: whether a GPU's time counts, not the host's.
    """
    seconds: dict[str, float] = defaultdict(float)
    computing, sending = [], []
    for event in events:
        span = (event.time_range.start, event.time_range.end)
        on_host = event.device_type == DeviceType.CPU
        if _MESSAGES.match(event.name):
            if on_host != on_device:
                sending.append(span)
            continue
        works = on_device or (not event.cpu_children and event.name.startswith("aten::"))
        if on_host != on_device and works:
            computing.append(span)
        if on_host:
            spent = event.self_device_time_total if on_device else event.self_cpu_time_total
            kind = next(_kinds_of(event), REST)
            if kind != REST:
                seconds[kind] += spent / 1e6
    seconds[MESSAGES] = _alone(sending, computing) / 1e6
    return seconds


def _kinds_of(event: Any) -> Iterator[str]:
    """Yield the kinds of an operator, its own before those of its callers."""
    caller = event
    while caller is not None:
        yield from (kind for kind, pattern in _KINDS.items() if pattern.search(caller.name))
        caller = caller.cpu_parent


def _alone(spans: Iterable[tuple[float, float]], others: Iterable[tuple[float, float]]) -> float:
    """Return how long some of `spans` lasted while none of `others` did."""
    changes = [
        (at, kind, step)
        for kind, group in enumerate((spans, others))
        for span in group
        for at, step in zip(span, (1, -1), strict=True)
    ]
    alone, open_spans, before = 0.0, [0, 0], 0.0
    for at, kind, step in sorted(changes):
        if open_spans[0] and not open_spans[1]:
            alone += at - before
        open_spans[kind] += step
        before = at
    return alone
