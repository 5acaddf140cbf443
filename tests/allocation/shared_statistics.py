"""One text's hidden states, added up by any number of ranks: each lane's by one of them."""

import functools

import torch
from random_models import random_batches, random_model
from torch import Tensor

from allocation import StatisticsKind, WordStatistics
from lightrnn import LightRNN, WordTable

NUM_WORDS, NUM_ROWS, NUM_COLUMNS, HIDDEN_SIZE = 150, 13, 12, 6
LENGTHS = (123, 122, 123, 59, 122)

Piece = tuple[Tensor, tuple[Tensor, Tensor]]
"""Targets [1, T] of a lane, and the states [T, 1, H] that predict their rows and columns."""


@functools.cache
def model_and_table() -> tuple[LightRNN, WordTable]:
    return random_model(NUM_WORDS, NUM_ROWS, NUM_COLUMNS, hidden_size=HIDDEN_SIZE)


@functools.cache
@torch.no_grad()
def pieces() -> list[Piece]:
    """Return the text of all lanes, lane by lane, with states that do not depend on any split."""
    model, _ = model_and_table()
    _, batches = random_batches(NUM_WORDS, LENGTHS, bptt=20)
    state = model.initial_state(len(LENGTHS))
    found = []
    for inputs, targets in batches:
        for_row, for_column, state = model.hidden_states(inputs, targets, state)
        for lane in range(len(LENGTHS)):
            states = for_row[:, lane : lane + 1], for_column[:, lane : lane + 1]
            found.append((targets[lane : lane + 1], states))
    return found


@torch.no_grad()
def statistics_of_rank(rank: int, world_size: int, kind: StatisticsKind) -> WordStatistics:
    """Return the statistics of a rank's share of the pieces; those of four ranks leave one idle."""
    model, _ = model_and_table()
    statistics = WordStatistics(model, kind)
    if world_size == 4 and rank == 2:
        return statistics
    busy = [other for other in range(world_size) if world_size != 4 or other != 2]
    for targets, hidden in pieces()[busy.index(rank) :: len(busy)]:
        statistics.add(model, targets, hidden)
    return statistics
