"""Optimizer, learning rate, and precision of the step."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from launcher.settings import SettingsError, TrainSettings


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """Return the optimizer, in one kernel; its learning rate is set anew at each step."""
    rate, decay = settings.learning_rate, settings.weight_decay
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)


def learning_rate(step: int, total_steps: int, settings: TrainSettings) -> float:
    """Return the rate of step `step` (from 0): a rise, a plateau, then a fall to the last rate."""
    rise = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    begin = settings.decay_from * total_steps
    progress = max(0.0, (step - begin) / max(total_steps - begin, 1.0))
    last = settings.final_learning_rate
    fall = {
        "constant": 1.0,
        "linear": 1.0 - progress * (1.0 - last),
        "cosine": last + (1.0 - last) * 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[settings.schedule]
    return settings.learning_rate * rise * fall


def _has_bfloat16(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.is_bf16_supported()


def wants_bfloat16(settings: TrainSettings, device: torch.device) -> bool:
    """Return whether forward passes run in bfloat16 where that is safe."""
    if settings.precision == "auto":
        return device.type == "cuda" and _has_bfloat16(device)
    return settings.precision == "bfloat16"


def autocast_for(
    settings: TrainSettings, device: torch.device
) -> Callable[[], AbstractContextManager[None]]:
    """Return what every forward pass runs under.

    Raises:
        SettingsError: bfloat16 was asked for on a GPU that does not have it.
    """
    if settings.precision == "bfloat16" and not _has_bfloat16(device):
        raise SettingsError(
            "train.precision=bfloat16, but this GPU has no bfloat16; use float32 or auto"
        )
    if not wants_bfloat16(settings, device):
        return nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)
