"""Rivals of LightRNN trained by the recipe of a configuration, and sized for a fair comparison.

Legend: N words of a batch, H hidden, V words, K classes, M words of a class.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.rival_models import Rival, RivalShape
from data_shards import Batches, Corpus
from launcher.averaging import AveragedParameters
from launcher.batches import (
    all_batches,
    evaluation_batches,
    training_batches,
    training_steps,
)
from launcher.evaluation import Autocast
from launcher.optimization import autocast_for, learning_rate, make_optimizer
from launcher.settings import Settings
from lightrnn import perplexity_of
from lightrnn.dropout import dropout_keys
from lightrnn.model import NO_WORD

CLASSES = "classes"
"""Name of the rival that predicts a word's class and then the word; others are in `RivalName`."""


@dataclass(frozen=True)
class Trained:
    """How a rival ended.

    Attributes:
        valid_perplexity, test_perplexity: at the end, with averages where the recipe keeps them.
        parameters: trained numbers.
        width: of its vectors and of its recurrent layers.
        seconds: of training, evaluations left out.
    """

    valid_perplexity: float
    test_perplexity: float
    parameters: int
    width: int
    seconds: float


class ClassSoftmax(nn.Module):
    """Two softmaxes: over classes of words of like frequency, then over the words of one class.

    Class `k` has the ids from `k * M` on, M the ceiling of the root of V (Goodman, 2001).
    """

    def __init__(self, shape: RivalShape) -> None:
        super().__init__()
        self.size = math.isqrt(shape.num_words - 1) + 1
        num_classes = -(-shape.num_words // self.size)
        width = shape.hidden_size
        self.classes = nn.Linear(width, num_classes)
        self.weight = nn.Parameter(torch.empty(shape.num_words, width))
        self.bias = nn.Parameter(torch.zeros(shape.num_words))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    def forward(self, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
        """Return the summed loss of the targets that are words."""
        real_N = targets_N != NO_WORD
        hidden_NH, targets_N = hidden_NH[real_N], targets_N[real_N]
        classes_N = targets_N // self.size
        nll = F.cross_entropy(self.classes(hidden_NH).float(), classes_N, reduction="sum")
        for number in classes_N.unique().tolist():
            words = slice(number * self.size, (number + 1) * self.size)
            chosen_N = classes_N == number
            logits_NM = F.linear(hidden_NH[chosen_N], self.weight[words], self.bias[words])
            places_N = targets_N[chosen_N] - words.start
            nll = nll + F.cross_entropy(logits_NM.float(), places_N, reduction="sum")
        return nll


def make_rival(name: str, settings: Settings, num_words: int, width: int, dropout: float) -> Rival:
    """Return a rival whose vectors and recurrent layers have one width."""
    shape = RivalShape(
        name="full" if name == CLASSES else name,  # type: ignore[arg-type]
        num_words=num_words,
        embedding_size=width,
        hidden_size=width,
        num_layers=settings.model.num_layers,
        cell=settings.model.cell,
    )
    rival = Rival(shape, dropout)
    if name == CLASSES:
        rival.head = ClassSoftmax(shape)
    return rival


def width_for(name: str, settings: Settings, num_words: int, most_parameters: int) -> int:
    """Return the largest width at which a rival has no more parameters; at least 1."""
    low, high = 1, max(2, most_parameters // num_words + 1)
    with torch.device("meta"):
        while high - low > 1:
            middle = (low + high) // 2
            size = make_rival(name, settings, num_words, middle, 0.0).num_parameters
            low, high = (middle, high) if size <= most_parameters else (low, middle)
    return low


def train_rival(rival: Rival, settings: Settings, corpus: Corpus, device: torch.device) -> Trained:
    """Train by the recipe that LightRNN has: batches, optimizer, rates, clipping, averages."""
    recipe = settings.train
    batches = training_batches(corpus, settings, 0, 1)
    total = max(1, round(recipe.epochs * batches.num_steps))
    autocast = autocast_for(recipe, device)
    rival = rival.to(device)
    optimizer = make_optimizer(rival.parameters(), recipe)
    averaged = AveragedParameters(rival, recipe.average_decay) if recipe.average_decay else None
    state = rival.initial_state(settings.data.num_lanes)
    began = time.perf_counter()
    for step, (inputs, targets, num_tokens) in enumerate(
        training_steps(batches, range(total), device)
    ):
        if step % batches.num_steps == 0 or not batches.carries_state:
            state = torch.zeros_like(state)
        keys = dropout_keys(recipe.seed, step, batches.lanes, device)
        with autocast():
            loss, new_state = rival(inputs, targets, state, keys)
        (loss / max(num_tokens, 1)).backward()
        nn.utils.clip_grad_norm_(rival.parameters(), recipe.clip_norm or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, recipe)
        optimizer.step()
        optimizer.zero_grad()
        state = new_state.detach().float()
        if averaged is not None:
            averaged.update(step + 1)
    seconds = time.perf_counter() - began
    if averaged is not None:
        with averaged.in_use():
            valid, test = (perplexity(rival, settings, corpus, one) for one in ("valid", "test"))
    else:
        valid, test = (perplexity(rival, settings, corpus, one) for one in ("valid", "test"))
    return Trained(valid, test, rival.num_parameters, rival.shape.hidden_size, seconds)


@torch.no_grad()
def perplexity(rival: Rival, settings: Settings, corpus: Corpus, split: str) -> float:
    """Return the perplexity of a split, the state carried as LightRNN's is."""
    batches: Batches = evaluation_batches(corpus, split, settings, 0, 1)
    autocast: Autocast = autocast_for(settings.train, rival.device)
    rival.eval()
    nll, words, state = 0.0, 0, None
    for inputs, targets in all_batches(batches, rival.device):
        if state is None or not batches.carries_state:
            state = rival.initial_state(len(inputs))
        with autocast():
            loss, state = rival(inputs, targets, state)
        nll += float(loss)
        words += int((targets != NO_WORD).sum())
    rival.train()
    return perplexity_of(nll / words)
