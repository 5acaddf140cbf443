"""What training costs in arithmetic, and what the device could do at most."""

import time

import torch

from lightrnn import ModelShape

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_SIDE = {"cpu": 512, "cuda": 4096}
"""Sides of the matrices that are multiplied to measure a device: large enough to fill it."""


def training_flops_per_word(shape: ModelShape) -> int:
    """Return the floating-point operations of a word's training step in its matrix products.

    A product counts twice its multiplications, the backward pass twice the forward one; own
    vectors of words and everything that is no matrix product are left out.
    """
    widths = [shape.embedding_size] + [shape.hidden_size] * (shape.num_layers - 1)
    half_step = sum(
        _GATES[shape.cell] * shape.hidden_size * (width + shape.hidden_size) for width in widths
    )
    softmaxes = shape.hidden_size * (shape.num_rows + shape.num_columns)
    return 3 * 2 * (2 * half_step + softmaxes)


def measured_flops_per_second(device: torch.device, *, bfloat16: bool) -> float:
    """Return what square matrix products reach on the device: the best of a few."""
    side = _SIDE.get(device.type, _SIDE["cpu"])
    kind = torch.bfloat16 if bfloat16 else torch.float32
    # Not by chance, so that torch's generator stays as it is; zeros would be unfairly cheap.
    matrix = torch.arange(side * side, device=device).remainder(97).view(side, side).to(kind)
    seconds = []
    for _ in range(5):
        _finish(device)
        started = time.perf_counter()
        matrix @ matrix
        _finish(device)
        seconds.append(time.perf_counter() - started)
    return float(2 * side**3 / min(seconds))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
