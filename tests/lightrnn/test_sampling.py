"""Sampled words follow the model's distribution, and never come from where they must not."""

import functools
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

from lightrnn import LightRNN, ModelError, WordTable, next_word_log_probabilities, sample_words


@functools.cache
def tiny_model() -> tuple[LightRNN, WordTable]:
    """Return ten words in 3 x 4 cells, two of them spare."""
    return random_model(10, 3, 4, scale=1.5)


def sampled(count: int, prompt: list[int], *, seed: int = 0, **options) -> list[int]:
    model, table = tiny_model()
    return list(islice(sample_words(model, table, prompt, seed=seed, **options), count))


def test_the_same_seed_gives_the_same_words() -> None:
    first = sampled(40, [1, 2, 3], seed=5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert sampled(40, [1, 2, 3], seed=5) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert sampled(40, [1, 2, 3], seed=6) != first
    assert sampled(20, [1, 2, 3], seed=5) == first[:20]


@settings(deadline=None, max_examples=25)
@given(
    num_words=st.integers(2, 12),
    excluded=st.sets(st.integers(0, 11)),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([5e-324, 0.01, 1.0, 5.0, 1e30]),
)
def test_neither_spare_cells_nor_excluded_words_are_drawn(
    num_words: int, excluded: set[int], seed: int, temperature: float
) -> None:
    model, table = random_model(num_words, 3, 4, seed=seed)
    excluded = {word for word in excluded if word < num_words}
    draws = sample_words(
        model, table, [0], seed=seed, temperature=temperature, excluded=sorted(excluded)
    )
    if len(excluded) == num_words:
        with pytest.raises(ModelError, match="every word is excluded"):
            next(draws)
        return
    assert set(islice(draws, 30)) <= set(range(num_words)) - excluded


def empirical(num_draws: int, prompt: list[int], **options) -> torch.Tensor:
    model, table = tiny_model()
    counts = torch.zeros(10)
    for seed in range(num_draws):
        counts[next(sample_words(model, table, prompt, seed=seed, **options))] += 1
    return counts / num_draws


@torch.no_grad()
def joint_log_probabilities(prompt: list[int]) -> torch.Tensor:
    """Return log P(next word) after the prompt for all words, [V]."""
    model, _ = tiny_model()
    words = torch.tensor([prompt])
    state = model.initial_state(1)
    if len(prompt) > 1:
        _, _, state = model(words[:, :-1], words[:, 1:], state)
    return next_word_log_probabilities(model, words[:, -1], state)[0]


NUM_DRAWS = 800
BOUND = 5 * 0.5 / NUM_DRAWS**0.5
"""Five standard deviations of a share, at most."""


@pytest.mark.parametrize("prompt", [[9], [0, 8, 9]])
def test_the_shares_of_words_are_their_probabilities(prompt: list[int]) -> None:
    # Two of twelve cells are spare: the row first, among rows with words, then the column in it.
    model, table = tiny_model()
    probabilities = joint_log_probabilities(prompt).exp()
    rows = torch.tensor(table.row_of_word).long()
    words = torch.tensor([prompt])
    state = model.initial_state(1)
    with torch.no_grad():
        if len(prompt) > 1:
            _, _, state = model(words[:, :-1], words[:, 1:], state)
        hidden, _ = model.run(
            model.column_embedding(model.column_of_word[words[:, -1]])[None], state
        )
        row_probabilities = model.row_head(hidden[0])[0].softmax(-1)
    in_row = torch.zeros(3).index_add_(0, rows, probabilities)
    expected = row_probabilities[rows] * probabilities / in_row[rows]
    assert float(expected.sum()) == pytest.approx(1.0, abs=1e-5)
    shares = empirical(NUM_DRAWS, prompt)
    assert float((shares - expected).abs().max()) < BOUND
    # The prompts tell apart: a prompt that is not read as a whole would be seen.
    short, long = (joint_log_probabilities(prompt).exp() for prompt in ([9], [0, 8, 9]))
    assert float((short - long).abs().max()) > 2 * BOUND


def test_a_low_temperature_takes_the_likeliest() -> None:
    cold = {sampled(1, [4], seed=seed, temperature=1e-4)[0] for seed in range(20)}
    assert len(cold) == 1
    hot = empirical(NUM_DRAWS, [4], temperature=1e30)
    _, table = tiny_model()
    words_in_row = (table.word_at_cell >= 0).sum(1)
    expected = torch.tensor([1 / 3 / words_in_row[row] for row in table.row_of_word])
    assert float((hot - expected).abs().max()) < BOUND


def test_drawn_words_are_read_on_like_a_prompt() -> None:
    text = sampled(12, [4], temperature=1e-4)
    for cut in range(1, 12):
        assert sampled(12 - cut, [4, *text[:cut]], temperature=1e-4) == text[cut:]
    assert len(set(text)) > 2


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ModelError, match="expected above 0; change --temperature"):
        sampled(1, [1], temperature=temperature)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the prompt has no words.*--prompt"):
        sampled(1, [])
