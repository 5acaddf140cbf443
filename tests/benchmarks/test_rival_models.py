"""The models that LightRNN is measured against are what they say."""

import importlib.util
import math

import pytest
import torch
from torch.nn import functional as F

from benchmarks.rival_models import (
    Rival,
    RivalError,
    RivalName,
    RivalShape,
    SampledSoftmax,
    usual_cutoffs,
)
from lightrnn.model import NO_WORD

V, H = 50, 64


def built(name: RivalName, **sizes: int) -> Rival:
    torch.manual_seed(0)
    return Rival(RivalShape(name, V, H, H, **sizes))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    words_BT = torch.randint(0, V, (3, 6), dtype=torch.int32)
    targets_BT = words_BT[:, 1:].clone()
    targets_BT[2, -1] = NO_WORD
    return words_BT[:, :-1], targets_BT


@pytest.mark.parametrize("name", ["full", "tied", "adaptive", "sampled"])
def test_probabilities_of_all_words_sum_to_one(name: RivalName) -> None:
    model = built(name).eval()
    inputs_V1 = torch.full((V, 1), 7)
    every_word_V1 = torch.arange(V)[:, None]
    total = 0.0
    for word in every_word_V1:
        losses = model(inputs_V1[:1], word[None], model.initial_state(1))
        total += math.exp(-losses.nll.item())

    assert total == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["full", "tied", "adaptive", "sampled"])
def test_the_state_goes_on_and_padding_costs_nothing(name: RivalName) -> None:
    model = built(name, num_layers=2).eval()
    inputs_BT, targets_BT = batch()

    whole = model(inputs_BT, targets_BT, model.initial_state(3))
    first = model(inputs_BT[:, :2], targets_BT[:, :2], model.initial_state(3))
    rest = model(inputs_BT[:, 2:], targets_BT[:, 2:], first.state)
    only_padding = model(inputs_BT[:, :1], torch.full_like(targets_BT[:, :1], NO_WORD), first.state)

    assert (first.nll + rest.nll).item() == pytest.approx(whole.nll.item(), rel=1e-5)
    assert torch.allclose(rest.state, whole.state, atol=1e-6)
    assert only_padding.nll.item() == 0


def test_tied_vectors_are_one_parameter() -> None:
    untied, tied = built("full"), built("tied")

    assert untied.num_parameters - tied.num_parameters == V * H
    assert tied.head.weight is tied.embedding.weight
    with pytest.raises(RivalError, match="make them equal"):
        RivalShape("tied", V, H, H + 1)


def test_drawn_words_estimate_the_gradient_of_the_full_softmax() -> None:
    head = SampledSoftmax(RivalShape("sampled", V, H, H, num_candidates=50))
    torch.manual_seed(2)
    head.weight = torch.nn.Parameter(torch.randn(V, H) / 8)
    hidden_NH, targets_N = torch.randn(4, H), torch.tensor([0, 3, NO_WORD, 40])
    exact = F.cross_entropy(
        hidden_NH @ head.weight.t(), targets_N, ignore_index=NO_WORD, reduction="sum"
    )
    (exact_gradient,) = torch.autograd.grad(exact, head.weight)

    mean_gradient = torch.zeros(V, H)
    for _ in range(1000):
        mean_gradient += torch.autograd.grad(head(hidden_NH, targets_N), head.weight)[0] / 1000

    # With few candidates the estimate has a bias; its direction and size are those of the truth.
    similarity = F.cosine_similarity(mean_gradient.flatten(), exact_gradient.flatten(), dim=0)
    assert float(similarity) > 0.99
    assert float(mean_gradient.norm() / exact_gradient.norm()) == pytest.approx(1, abs=0.1)


def test_cutoffs_rise_within_the_vocabulary() -> None:
    for num_words in (2, 4, 50, 10_000, 793_471):
        cutoffs = (0, *usual_cutoffs(num_words), num_words)
        assert list(cutoffs) == sorted(set(cutoffs))


@pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is not None, reason="liger-kernel is installed"
)
def test_a_missing_package_is_named() -> None:
    with pytest.raises(RivalError, match="pip install liger-kernel"):
        built("fused")
