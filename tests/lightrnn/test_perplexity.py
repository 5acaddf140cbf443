"""Perplexity is that of the whole text, whatever its cut into batches."""

import math

import pytest
import torch
from random_models import chained_nll, random_batches, random_model

from lightrnn import Losses, perplexity_of, sum_losses


@pytest.mark.parametrize("bptt", [1, 3, 7, 20])
def test_the_sums_are_those_of_every_lane_read_as_a_whole(bptt: int) -> None:
    model, _ = random_model(20, 4, 6, num_layers=2)
    lengths = [11, 10, 11, 4]
    words, batches = random_batches(20, lengths, bptt)
    row_nll, column_nll, tokens = sum_losses(model, batches).tolist()
    assert tokens == sum(lengths)
    expected = sum(
        float(chained_nll(model, words[lane : lane + 1, : length + 1]).sum())
        for lane, length in enumerate(lengths)
    )
    assert row_nll + column_nll == pytest.approx(expected, rel=1e-5)
    losses = Losses(row_nll, column_nll, int(tokens))
    assert losses.loss == pytest.approx(expected / 36, rel=1e-5)
    assert losses.perplexity == pytest.approx(math.exp(expected / 36), rel=1e-4)


def test_batches_that_are_not_carried_on_are_read_alone() -> None:
    model, _ = random_model(20, 4, 6)
    batches = [
        batch
        for seed, width in enumerate((4, 7))
        for batch in random_batches(20, [width], 9, seed)[1]
    ]
    alone = sum(sum_losses(model, [batch]) for batch in batches)
    assert torch.equal(sum_losses(model, batches, carry_state=False), alone)
    assert not torch.allclose(sum_losses(model, batches), alone)


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_put_back_and_no_word_is_dropped(training: bool) -> None:
    model, _ = random_model(20, 4, 6, dropout=0.5)
    _, batches = random_batches(20, [9, 9], 4)
    expected = sum_losses(model, batches)
    model.train(training)
    assert torch.equal(sum_losses(model, batches), expected)
    assert model.training is training
    assert all(module.training is training for module in model.modules())


def test_the_mode_is_put_back_after_an_error_too() -> None:
    model, _ = random_model(20, 4, 6)
    model.train()

    def batches():
        yield from random_batches(20, [9, 9], 4)[1]
        raise OSError("the corpus is gone")

    with pytest.raises(OSError, match="gone"):
        sum_losses(model, batches())
    assert model.training


def test_no_batches_are_no_words() -> None:
    model, _ = random_model(20, 4, 6)
    assert sum_losses(model, []).tolist() == [0.0, 0.0, 0.0]


def test_a_model_that_knows_nothing_has_as_many_choices_as_cells() -> None:
    model, _ = random_model(20, 4, 6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    _, batches = random_batches(20, [50, 50], 10)
    row_nll, column_nll, tokens = sum_losses(model, batches).tolist()
    losses = Losses(row_nll, column_nll, int(tokens))
    assert math.exp(losses.row_loss) == pytest.approx(4, rel=1e-5)
    assert math.exp(losses.column_loss) == pytest.approx(6, rel=1e-5)
    assert losses.perplexity == pytest.approx(24, rel=1e-5)


def test_perplexity_beyond_a_float_is_infinite() -> None:
    assert perplexity_of(0.0) == 1.0
    assert perplexity_of(math.log(157.0)) == pytest.approx(157.0)
    assert perplexity_of(1e6) == math.inf
    assert perplexity_of(math.inf) == math.inf
    assert math.isnan(Losses(math.nan, 1.0, 2).loss)
