"""Two half-steps a word: the kernel's run is the paper's recurrence, and a distribution over words.

Legend: B lanes, T words, H hidden, V words of the vocabulary.
"""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import chained_nll, random_batches, random_model
from torch import Tensor, nn

from lightrnn import LightRNN, ModelError, ModelShape, WordTable, next_word_log_probabilities
from lightrnn.dropout import DropoutRates
from lightrnn.model import NO_WORD, Cell

every_cell = pytest.mark.parametrize("cell", get_args(Cell))
with_and_without_own_vectors = pytest.mark.parametrize("word_size", [0, 3])
one_or_two_layers = pytest.mark.parametrize("num_layers", [1, 2])


def some_words(num_words: int, num_lanes: int, length: int, seed: int = 0) -> Tensor:
    return random_batches(num_words, [length] * num_lanes, length, seed)[0]


@torch.no_grad()
def losses(model: LightRNN, words_BT: Tensor) -> tuple[float, float, Tensor]:
    """Return row loss, column loss and the state after reading whole lanes from the start."""
    state = model.initial_state(len(words_BT))
    row_nll, column_nll, state = model(words_BT[:, :-1], words_BT[:, 1:], state)
    return float(row_nll), float(column_nll), state


@every_cell
@one_or_two_layers
@pytest.mark.parametrize("tied", [False, True])
@with_and_without_own_vectors
def test_the_probabilities_of_all_words_sum_to_one(
    cell: Cell, num_layers: int, tied: bool, word_size: int
) -> None:
    model, _ = random_model(
        *(12, 3, 4),
        cell=cell,
        num_layers=num_layers,
        embedding_size=6,
        tied=tied,
        word_size=word_size,
    )
    words = some_words(12, 5, 7)
    state = losses(model, words)[2]
    probabilities = next_word_log_probabilities(model, words[:, -1], state).double().exp()
    assert probabilities.shape == (5, 12)
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 5, abs=1e-5)
    # The lanes have read different words: the sums are not those of one distribution.
    assert float(probabilities.std(0).max()) > 1e-3


@every_cell
@one_or_two_layers
def test_spare_cells_take_their_share(cell: Cell, num_layers: int) -> None:
    model, table = random_model(9, 3, 4, cell=cell, num_layers=num_layers)
    words = some_words(9, 5, 7)
    state = losses(model, words)[2]
    sums = next_word_log_probabilities(model, words[:, -1], state).double().exp().sum(1)
    assert float(sums.max()) < 1.0
    # With words in the spare cells too the rest is there.
    full = LightRNN(model.shape, 12).eval()
    full.load_state_dict(model.state_dict())
    cells = table.row_of_word * 4 + table.column_of_word
    spare = np.setdiff1d(np.arange(12), cells)
    full.set_table(WordTable.from_cells(np.concatenate([cells, spare]), 3, 4))
    all_of_them = next_word_log_probabilities(full, words[:, -1], state).double().exp()
    assert all_of_them[:, :9].sum(1).tolist() == pytest.approx(sums.tolist(), abs=1e-6)
    assert all_of_them.sum(1).tolist() == pytest.approx([1.0] * 5, abs=1e-5)


@pytest.mark.parametrize(("num_rows", "num_columns"), [(3, 4), (7, 2), (4, 6)])
@torch.no_grad()
def test_with_own_vectors_spare_cells_and_empty_rows_take_nothing(
    num_rows: int, num_columns: int
) -> None:
    model, _ = random_model(9, num_rows, num_columns, word_size=3)
    by_row = WordTable.by_frequency(np.ones(9), num_rows, num_columns)
    for table in (by_row, WordTable.random(9, num_rows, num_columns, seed=4)):
        model.set_table(table)
        words = some_words(9, 5, 7)
        row_nll, column_nll, state = losses(model, words)
        sums = next_word_log_probabilities(model, words[:, -1], state).double().exp().sum(1)
        assert sums.tolist() == pytest.approx([1.0] * 5, abs=1e-5)
        expected = float(chained_nll(model, words).sum())
        assert row_nll + column_nll == pytest.approx(expected, rel=1e-5)


def test_own_vectors_go_with_the_words() -> None:
    """On a table of one row a move of words is a move of columns' vectors, and nothing else."""
    model, table = random_model(6, 1, 6, word_size=3)
    words = some_words(6, 4, 8)
    before = losses(model, words)
    columns = np.random.default_rng(3).permutation(6)
    model.set_table(WordTable(table.row_of_word, columns, 1, 6))
    assert losses(model, words)[1] != pytest.approx(before[1], rel=1e-3)
    with torch.no_grad():
        for parameter in (
            model.column_embedding.weight,
            model.column_head.weight,
            model.column_head.bias,
        ):
            parameter[torch.tensor(columns)] = parameter[torch.tensor(table.column_of_word)].clone()
    after = losses(model, words)
    assert after[:2] == pytest.approx(before[:2], rel=1e-5)
    torch.testing.assert_close(after[2], before[2], atol=1e-6, rtol=1e-5)


@every_cell
@one_or_two_layers
@with_and_without_own_vectors
def test_the_losses_are_the_chain_of_next_word_probabilities(
    cell: Cell, num_layers: int, word_size: int
) -> None:
    model, _ = random_model(10, 3, 4, cell=cell, num_layers=num_layers, word_size=word_size)
    words = some_words(10, 4, 9)
    row_nll, column_nll, _ = losses(model, words)
    assert row_nll + column_nll == pytest.approx(float(chained_nll(model, words).sum()), rel=1e-5)


def lstm_half_step(
    layer: nn.LSTM, vector_BD: Tensor, hidden_BH: Tensor, memory_BH: Tensor
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM (Hochreiter and Schmidhuber, 1997) by its equations."""
    gates = vector_BD @ layer.weight_ih_l0.t() + layer.bias_ih_l0
    gates = gates + hidden_BH @ layer.weight_hh_l0.t() + layer.bias_hh_l0
    take, keep, new, give = gates.chunk(4, dim=1)
    memory_BH = keep.sigmoid() * memory_BH + take.sigmoid() * new.tanh()
    return give.sigmoid() * memory_BH.tanh(), memory_BH


@one_or_two_layers
@with_and_without_own_vectors
@torch.no_grad()
def test_the_interleaved_run_is_two_half_steps_a_word(num_layers: int, word_size: int) -> None:
    model, table = random_model(12, 3, 4, num_layers=num_layers, word_size=word_size)
    words = some_words(10, 4, 6).long()
    hidden = [torch.zeros(4, 6) for _ in range(num_layers)]
    memory = [torch.zeros(4, 6) for _ in range(num_layers)]

    def half_step(vector: Tensor) -> Tensor:
        for number, layer in enumerate(model.layers):
            assert isinstance(layer, nn.LSTM)
            hidden[number], memory[number] = lstm_half_step(
                layer, vector, hidden[number], memory[number]
            )
            vector = hidden[number]
        return vector

    row_of_word, column_of_word = (
        torch.tensor(cells).long() for cells in (table.row_of_word, table.column_of_word)
    )
    own = model.own_vectors
    read_VE, told_VD = torch.zeros(12, 5), torch.zeros(12, 1)
    if own is not None:
        read_VE, told_VD = own.vectors.weight @ own.reading.weight.t(), own.vectors.weight
    row_nll, column_nll = 0.0, 0.0
    for last, following in zip(words.t()[:-1], words.t()[1:], strict=True):
        row, column = row_of_word[following], column_of_word[following]
        vector = model.column_embedding.weight[column_of_word[last]] + read_VE[last]
        predicts_row = half_step(vector)
        scores = predicts_row @ model.row_head.weight.t() + model.row_head.bias
        row_nll -= float(scores.log_softmax(1).gather(1, row[:, None]).sum())
        predicts_column = half_step(model.row_embedding.weight[row])
        scores = predicts_column @ model.column_head.weight.t() + model.column_head.bias
        if own is not None:
            in_row_BCD = told_VD[torch.tensor(table.word_at_cell)[row]]
            scores += (in_row_BCD @ own.predicting(predicts_column)[:, :, None])[:, :, 0]
        column_nll -= float(scores.log_softmax(1).gather(1, column[:, None]).sum())

    found_row_nll, found_column_nll, state = losses(model, words)
    assert found_row_nll == pytest.approx(row_nll, rel=1e-5)
    assert found_column_nll == pytest.approx(column_nll, rel=1e-5)
    expected = torch.stack([torch.stack(hidden), torch.stack(memory)])
    torch.testing.assert_close(state, expected, atol=1e-5, rtol=0)


@every_cell
@one_or_two_layers
@settings(deadline=None, max_examples=10)
@given(cut=st.integers(1, 7), seed=st.integers(0, 100))
def test_the_state_carries_a_text_on(cell: Cell, num_layers: int, cut: int, seed: int) -> None:
    model, _ = random_model(10, 3, 4, cell=cell, num_layers=num_layers)
    words = some_words(10, 3, 8, seed)
    whole_row, whole_column, whole_state = losses(model, words)
    with torch.no_grad():
        first = model(words[:, :cut], words[:, 1 : cut + 1], model.initial_state(3))
        second = model(words[:, cut:-1], words[:, cut + 1 :], first.state)
    assert float(first.row_nll + second.row_nll) == pytest.approx(whole_row, rel=1e-5)
    assert float(first.column_nll + second.column_nll) == pytest.approx(whole_column, rel=1e-5)
    torch.testing.assert_close(second.state, whole_state, atol=1e-5, rtol=1e-5)
    num_tensors = 2 if cell == "lstm" else 1
    assert whole_state.shape == (num_tensors, num_layers, 3, 6)


@every_cell
@torch.no_grad()
def test_padding_changes_nothing_for_other_lanes_or_words_before_it(cell: Cell) -> None:
    model, _ = random_model(10, 3, 4, cell=cell, num_layers=2)
    lengths = [8, 5, 8, 0]
    words, [(inputs, targets)] = random_batches(10, lengths, 8)
    padded = model(inputs, targets, model.initial_state(4))
    alone = [losses(model, words[lane : lane + 1, : n + 1]) for lane, n in enumerate(lengths) if n]
    assert float(padded.row_nll) == pytest.approx(sum(row for row, _, _ in alone), rel=1e-5)
    assert float(padded.column_nll) == pytest.approx(sum(col for _, col, _ in alone), rel=1e-5)
    for lane, (_, _, state) in ((0, alone[0]), (2, alone[2])):
        torch.testing.assert_close(padded.state[:, :, lane], state[:, :, 0], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_nothing_but_padding_costs_nothing() -> None:
    model, _ = random_model(10, 3, 4)
    nothing = torch.full((2, 3), NO_WORD, dtype=torch.int32)
    row_nll, column_nll, _ = model(torch.zeros_like(nothing), nothing, model.initial_state(2))
    assert (float(row_nll), float(column_nll)) == (0.0, 0.0)


@every_cell
@one_or_two_layers
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_reach_every_parameter(cell: Cell, num_layers: int, tied: bool) -> None:
    model, _ = random_model(
        *(12, 3, 4),
        cell=cell,
        num_layers=num_layers,
        embedding_size=6,
        tied=tied,
        word_size=2,
        dropout=0.1,
    )
    model.train()
    words = torch.arange(12).repeat(2, 2)
    row_nll, column_nll, _ = model(words[:, :-1], words[:, 1:], model.initial_state(2))
    (row_nll + column_nll).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # Every row and column occurs, so no vector of either is left out.
        assert (
            (parameter.grad.flatten(1).norm(dim=1) > 0).all()
            if parameter.ndim == 2
            else (parameter.grad.norm() > 0)
        ), name


def test_tied_vectors_are_shared() -> None:
    untied, _ = random_model(12, 3, 4, embedding_size=6)
    tied, _ = random_model(12, 3, 4, embedding_size=6, tied=True)
    assert tied.row_head.weight is tied.row_embedding.weight
    assert tied.column_head.weight is tied.column_embedding.weight
    assert untied.row_head.weight is not untied.row_embedding.weight
    assert untied.num_parameters - tied.num_parameters == (3 + 4) * 6
    with torch.no_grad():
        tied.row_embedding.weight[2].fill_(7.0)
    assert tied.row_head.weight[2].tolist() == [7.0] * 6


def test_vectors_of_unequal_widths_cannot_be_tied() -> None:
    with pytest.raises(ModelError, match="embedding_size=5 and hidden_size=6; make them equal"):
        ModelShape(3, 4, embedding_size=5, hidden_size=6, tied=True)


@pytest.mark.parametrize(
    "name", ["num_rows", "num_columns", "embedding_size", "hidden_size", "num_layers"]
)
def test_sizes_below_one_are_refused(name: str) -> None:
    sizes = {"num_rows": 3, "num_columns": 4, "embedding_size": 5, "hidden_size": 6}
    with pytest.raises(ModelError, match=f"^{name}=0, expected at least 1$"):
        ModelShape(**{**sizes, name: 0})


@pytest.mark.parametrize(
    ("cell", "num_gates"),
    [("lstm", 4), ("gru", 3), ("rnn", 1)],
)
@one_or_two_layers
def test_the_number_of_parameters_is_the_papers(
    cell: Cell, num_gates: int, num_layers: int
) -> None:
    side, width = 100, 200
    inputs = 2 * side * width
    # Two matrices and, in cuDNN's form, two biases a gate and layer.
    recurrent = num_layers * num_gates * (2 * width * width + 2 * width)
    outputs = 2 * (side * width + side)
    model = LightRNN(ModelShape(side, side, width, width, num_layers, cell), num_words=10_000)
    assert model.num_parameters == inputs + recurrent + outputs
    if (cell, num_layers) == ("lstm", 1):
        assert model.num_parameters == 401_800


def test_own_vectors_take_their_size_a_word() -> None:
    sizes = [
        LightRNN(ModelShape(10, 10, 5, 6, word_size=word_size), 90).num_parameters
        for word_size in (0, 4)
    ]
    assert sizes[1] - sizes[0] == 90 * 4 + 4 * 5 + 6 * 4 + 4
    with pytest.raises(ModelError, match=r"^word_size=-1, expected at least 0$"):
        ModelShape(3, 4, 5, 6, word_size=-1)


def test_parameters_do_not_grow_with_the_vocabulary() -> None:
    shape = ModelShape(100, 100, 20, 20)
    sizes = {LightRNN(shape, num_words).num_parameters for num_words in (1, 5_000, 10_000)}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("num_words", "num_rows", "num_columns"), [(9, 3, 4), (10, 4, 3), (10, 3, 5)]
)
def test_a_table_of_another_size_is_refused(
    num_words: int, num_rows: int, num_columns: int
) -> None:
    model, table = random_model(10, 3, 4)
    before = model.row_of_word.clone(), model.column_of_word.clone()
    with pytest.raises(ModelError) as error:
        model.set_table(WordTable.random(num_words, num_rows, num_columns, seed=0))
    assert str(error.value) == (
        f"the table has (V, R, C) = {(num_words, num_rows, num_columns)}, the model (10, 3, 4)"
    )
    assert torch.equal(model.row_of_word, before[0])
    assert torch.equal(model.column_of_word, before[1])
    assert model.row_of_word.tolist() == table.row_of_word.tolist()


def test_a_new_table_moves_words_and_leaves_parameters() -> None:
    model, _ = random_model(12, 3, 4)
    words = some_words(12, 2, 5)
    parameters = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = losses(model, words)[:2]
    model.set_table(WordTable.random(12, 3, 4, seed=9))
    assert losses(model, words)[:2] != before
    assert model.state_dict().keys() == parameters.keys()
    assert all(torch.equal(model.state_dict()[name], parameters[name]) for name in parameters)
    # Tables have files of their own; a checkpoint of parameters brings none along.
    assert not any("of_word" in name for name in parameters)


EVERYWHERE = DropoutRates(inputs=0.3, hidden=0.4, outputs=0.5, weights=0.3, words=0.2)


@pytest.mark.parametrize("rates", [0.5, EVERYWHERE, replace(EVERYWHERE, variational=True)])
def test_the_lanes_dropout_is_all_the_chance_there_is(rates: DropoutRates | float) -> None:
    model, _ = random_model(12, 3, 4, num_layers=2, word_size=3, dropout=rates)
    model.train()
    words, keys = some_words(12, 3, 6), torch.tensor([99, 11, 22, 33])
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(model(words[:, :-1], words[:, 1:], model.initial_state(3), keys))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(results[0].row_nll, results[1].row_nll)
    assert torch.equal(results[0].state, results[1].state)
    model.eval()
    still = model(words[:, :-1], words[:, 1:], model.initial_state(3), keys)
    assert not torch.equal(still.row_nll, results[0].row_nll)


@pytest.mark.parametrize("place", ["inputs", "hidden", "outputs", "weights", "words"])
@torch.no_grad()
def test_dropout_acts_where_it_is_said(place: str) -> None:
    model, _ = random_model(12, 3, 4, num_layers=2, dropout=DropoutRates(**{place: 0.5}))
    words, keys = some_words(12, 3, 6), torch.tensor([99, 11, 22, 33])
    still = model.hidden_states(words[:, :-1], words[:, 1:], model.initial_state(3), keys)
    model.train()
    dropped = model.hidden_states(words[:, :-1], words[:, 1:], model.initial_state(3), keys)
    zeros = [float((hidden == 0).double().mean()) for hidden in dropped[:2]]
    # The states that predict are zero where they are dropped, and nowhere else.
    assert [share > 0.2 for share in zeros] == [place == "outputs"] * 2
    # The first layer runs alike unless what it reads, or its matrix, is dropped.
    same_first_layer = torch.equal(still[2][:, 0], dropped[2][:, 0])
    assert same_first_layer == (place in ("hidden", "outputs"))
    assert torch.equal(still[2], dropped[2]) == (place == "outputs")


@every_cell
@torch.no_grad()
def test_weights_are_dropped_alike_for_all_lanes_and_by_step(cell: Cell) -> None:
    model, _ = random_model(12, 3, 4, cell=cell, dropout=DropoutRates(weights=0.5))
    words = some_words(12, 1, 6).expand(3, -1)

    def states(keys: list[int]) -> Tensor:
        batch = words[: len(keys) - 1, :-1], words[: len(keys) - 1, 1:]
        state = model.initial_state(len(keys) - 1)
        return model.hidden_states(*batch, state, torch.tensor(keys))[2]

    model.train()
    whole = states([99, 11, 22, 33])
    torch.testing.assert_close(whole[:, :, 0], whole[:, :, 2], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(states([99, 44])[:, :, 0], whole[:, :, 0], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(states([98, 44])[:, :, 0], whole[:, :, 0], atol=1e-3)
    model.eval()
    assert not torch.allclose(states([99, 44])[:, :, 0], whole[:, :, 0], atol=1e-3)


def test_dropped_weights_get_no_gradient_and_the_others_more() -> None:
    model, _ = random_model(12, 3, 4, dropout=DropoutRates(weights=0.5))
    words, keys = some_words(12, 3, 6), torch.tensor([99, 11, 22, 33])
    model.train()
    row_nll, column_nll, _ = model(words[:, :-1], words[:, 1:], model.initial_state(3), keys)
    (row_nll + column_nll).backward()
    gradient = model.layers[0].weight_hh_l0.grad
    assert isinstance(gradient, Tensor)
    dropped = float((gradient == 0).double().mean())
    assert abs(dropped - 0.5) < 5 * 0.5 / gradient.numel() ** 0.5
