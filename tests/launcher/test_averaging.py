"""Averages are those of the formula, and the model is given back what it had."""

import pytest
import torch
from random_models import random_model
from torch import nn

from launcher.averaging import AveragedParameters


def walk(model: nn.Module, averaged: AveragedParameters, num_steps: int) -> list[float]:
    """Set all parameters to 10, 20, ... step by step; return the values."""
    values = [10.0 * step for step in range(1, num_steps + 1)]
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)
        averaged.update(step)
    return values


def test_the_first_steps_count_alike_and_later_ones_decay() -> None:
    model = nn.Linear(2, 3)
    averaged = AveragedParameters(model, 0.75)
    expected = 0.0
    for step, value in enumerate(walk(model, averaged, 9), 1):
        expected += (value - expected) * max(0.25, 1 / step)
    for average in averaged.tensors().values():
        assert average.flatten().tolist() == pytest.approx([expected] * average.numel())
    few = AveragedParameters(model, 0.999)
    walk(model, few, 5)
    assert float(few.tensors()["averaged.weight"][0, 0]) == pytest.approx(30.0)


def test_the_model_has_the_averages_meanwhile_and_its_own_again() -> None:
    model, _ = random_model(12, 3, 4, embedding_size=6, tied=True, word_size=2)
    averaged = AveragedParameters(model, 0.5)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    last = {name: one.clone() for name, one in model.state_dict().items()}
    places = [one.data_ptr() for one in model.parameters()]

    def fail_meanwhile() -> None:
        with averaged.in_use():
            found = model.state_dict()
            assert all(torch.equal(found[name], before[name]) for name in before)
            # Tied vectors stay tied, and every layer's parameters where they lie.
            assert model.row_head.weight is model.row_embedding.weight
            assert [one.data_ptr() for one in model.parameters()] == places
            raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        fail_meanwhile()
    assert all(torch.equal(one, last[name]) for name, one in model.state_dict().items())
    averaged.restart()
    with averaged.in_use():
        assert all(torch.equal(one, last[name]) for name, one in model.state_dict().items())


def test_averages_never_follow_the_parameters_without_an_update() -> None:
    model = nn.Linear(2, 3)
    averaged = AveragedParameters(model, 0.5)
    with averaged.in_use(), torch.no_grad():
        pass
    kept = averaged.tensors()["averaged.weight"].clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    assert torch.equal(averaged.tensors()["averaged.weight"], kept)
