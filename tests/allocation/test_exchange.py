"""Sums of all ranks are those of one process, to the bit, whoever holds them in the end.

Legend: V words, R rows, C columns, H hidden.
"""

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from distributed import run_distributed
from shared_statistics import (
    HIDDEN_SIZE,
    LENGTHS,
    NUM_COLUMNS,
    NUM_ROWS,
    NUM_WORDS,
    model_and_table,
    statistics_of_rank,
)
from test_communicators import watch
from transports import Transport, every_transport, over_gloo, run_on

from allocation import (
    AllocationError,
    CellCosts,
    Communicator,
    DenseCosts,
    ExchangeMode,
    FactoredCosts,
    SingleProcess,
    StatisticsKind,
    Storage,
    bytes_exchanged,
    exchange,
)
from allocation.communicators import BLOCK_BYTES
from allocation.exchange import shares_of_words
from lightrnn import LightRNNError

FloatArray = npt.NDArray[np.floating]
Case = tuple[StatisticsKind, ExchangeMode, int]

SUMS_A_WORD = {"hidden": 2 * HIDDEN_SIZE + 2, "losses": NUM_ROWS + NUM_COLUMNS}
BLOCKS = (8 * 26 + 5, 3333, BLOCK_BYTES)
"""One word, a few words, and all of them."""
CASES: list[Case] = list(itertools.product(("hidden", "losses"), get_args(ExchangeMode), BLOCKS))


@dataclass(frozen=True)
class Seen:
    """What one rank saw of an exchange; `numbers` are the same on all ranks."""

    words: range
    losses: list[FloatArray]
    counts_V: FloatArray
    numbers: tuple[float, float, float]
    bytes_sent: int
    largest_message_bytes: int
    statistics_unchanged: bool


def all_losses(costs: CellCosts) -> list[FloatArray]:
    """Return the losses by row and by column in float64, and again in float32."""
    return [loss for dtype in (np.float64, np.float32) for loss in costs.losses(slice(None), dtype)]


def exchange_all(communicator: Communicator) -> dict[Case, Seen]:
    """Exchange in all ways, watching the messages."""
    messages = watch(communicator)
    seen = {}
    for kind, mode, block_bytes in CASES:
        communicator.block_bytes = block_bytes
        statistics = statistics_of_rank(communicator.rank, communicator.world_size, kind)
        before = statistics.sums_VS.clone()
        messages.clear()
        found = exchange(statistics, communicator, mode)
        assert isinstance(found.costs, FactoredCosts if kind == "hidden" else DenseCosts)
        assert found.seconds > 0
        seen[kind, mode, block_bytes] = Seen(
            found.words,
            all_losses(found.costs) if len(found.words) else [],
            found.counts_V,
            (found.row_nll, found.column_nll, found.standard_error),
            found.bytes_sent,
            max(messages),
            torch.equal(before, statistics.sums_VS),
        )
    return seen


@functools.cache
def alone(kind: StatisticsKind) -> Seen:
    return exchange_all(SingleProcess())[kind, "dense", BLOCK_BYTES]


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))


@every_transport
@every_case
def test_no_way_changes_a_bit(transport: Transport, world_size: int, case: Case) -> None:
    ranks = [seen[case] for seen in run_on(transport, world_size, exchange_all)]
    expected = alone(case[0])
    assert sorted(word for seen in ranks for word in seen.words) == list(range(NUM_WORDS))
    for seen in ranks:
        for found, whole in zip(seen.losses, expected.losses, strict=len(seen.words) > 0):
            np.testing.assert_array_equal(found, whole[list(seen.words)], strict=True)
        np.testing.assert_array_equal(seen.counts_V, expected.counts_V, strict=True)
        assert seen.numbers[:2] == expected.numbers[:2]
        assert seen.numbers == pytest.approx(expected.numbers, rel=1e-12)
        assert seen.numbers == ranks[0].numbers
        assert seen.statistics_unchanged


@every_transport
@every_case
def test_words_lie_with_rank_0_or_with_all(
    transport: Transport, world_size: int, case: Case
) -> None:
    ranks = [seen[case] for seen in run_on(transport, world_size, exchange_all)]
    sizes = [len(seen.words) for seen in ranks]
    if case[1] == "dense":
        assert sizes == [NUM_WORDS] + [0] * (world_size - 1)
    else:
        assert max(sizes) - min(sizes) <= 1


@every_transport
@every_case
def test_bytes_are_as_computed_and_messages_as_small_as_asked(
    transport: Transport, world_size: int, case: Case
) -> None:
    kind, _, block_bytes = case
    for seen in (by_case[case] for by_case in run_on(transport, world_size, exchange_all)):
        # Besides: two losses and nine moments, and two agreements that nothing failed.
        summed = 8 * NUM_WORDS * (SUMS_A_WORD[kind] + 1)
        assert seen.bytes_sent == summed + 8 * (2 + 9 + 2)
        assert seen.largest_message_bytes <= block_bytes
        if kind == "hidden":
            sizes = NUM_WORDS, NUM_ROWS, NUM_COLUMNS, HIDDEN_SIZE
            assert bytes_exchanged(*sizes, 0, world_size, "dense") == summed


@pytest.mark.parametrize("kind", ["hidden", "losses"])
def test_the_sums_are_the_true_ones_within_their_bound(kind: StatisticsKind) -> None:
    model, _ = model_and_table()
    sums_VS = statistics_of_rank(0, 1, kind).block(slice(None))
    counts_V = alone(kind).counts_V
    width = HIDDEN_SIZE if kind == "hidden" else NUM_ROWS
    for side, head in enumerate((model.row_head, model.column_head)):
        found = alone(kind).losses[side]
        if kind == "losses":
            true = (sums_VS[:, :width], sums_VS[:, width:])[side]
            assert (np.abs(found - true) <= 2.0**-24 * np.abs(true)).all()
        else:
            vectors = head.weight.detach().double().numpy()
            hidden = sums_VS[:, side * width : (side + 1) * width]
            true = sums_VS[:, 2 * width + side, None] - hidden @ vectors.T
            true -= counts_V[:, None] * head.bias.detach().double().numpy()
            bound = np.outer(np.abs(hidden).max(1), np.abs(vectors).sum(1))
            bound += np.outer(np.abs(hidden).sum(1), np.abs(vectors).max(1))
            assert (np.abs(found - true) <= 2.0**-22 * bound + 1e-12).all()
            # Nor is it all exact by chance.
            assert np.abs(found - true).max() > 1e-7


def test_what_is_measured_is_agreed() -> None:
    seen = alone("hidden")
    assert seen.counts_V.sum() == sum(LENGTHS)
    in_place = statistics_of_rank(0, 1, "hidden").measured.tolist()
    assert list(seen.numbers[:2]) == in_place
    assert 0 < seen.numbers[2] < sum(in_place) / sum(LENGTHS)


def test_sums_may_lie_in_files(tmp_path: Path) -> None:
    for kind in ("hidden", "losses"):
        statistics = statistics_of_rank(0, 1, kind)
        found = exchange(statistics, SingleProcess(), storage=Storage(0, tmp_path))
        for loss, expected in zip(all_losses(found.costs), alone(kind).losses, strict=True):
            np.testing.assert_array_equal(loss, expected, strict=True)
    assert list(tmp_path.iterdir()) == []


def refusal_of(communicator: Communicator, *damaged: int, **options) -> str:
    """Return the message with which an exchange ends where the last rank's words are damaged."""
    statistics = statistics_of_rank(communicator.rank, communicator.world_size, "auto")
    if communicator.rank == communicator.world_size - 1:
        for word in damaged:
            statistics.sums_VS[word, -1] = (torch.nan, torch.inf)[word % 2]
    try:
        exchange(statistics, communicator, **options)
    except LightRNNError as error:
        # All ranks are at the same place: they can still talk.
        present = np.ones(1)
        communicator.all_reduce(present)
        assert present == communicator.world_size
        return str(error)
    return ""


@pytest.mark.parametrize("mode", get_args(ExchangeMode))
def test_a_word_whose_losses_are_not_finite_is_named(mode: ExchangeMode) -> None:
    def refuse() -> str:
        return refusal_of(over_gloo(block_bytes=1000), 98, 103, 149, mode=mode)

    # Sharded, rank 1 owns 103, rank 2 owns 98 and 149; the lowest rank that fails is heard.
    word = 98 if mode == "dense" else 103
    message = (
        f"word {word} has losses that are not finite, expected finite losses; "
        "check the model's parameters and the training loss"
    )
    assert run_distributed(refuse, 3) == [message] * 3


def test_a_rank_without_room_stops_all(tmp_path: Path) -> None:
    def refuse() -> str:
        communicator = over_gloo()
        storage = Storage(0, tmp_path / "none") if communicator.rank == 1 else None
        return refusal_of(communicator, mode="sharded", storage=storage)

    messages = run_distributed(refuse, 2)
    assert messages == [messages[0]] * 2
    assert messages[0].startswith("the statistics of all words need")


@pytest.mark.parametrize(("num_words", "world_size"), [(10, 1), (10, 3), (2, 4), (1, 64)])
def test_shares_are_even_and_whole(num_words: int, world_size: int) -> None:
    for mode in get_args(ExchangeMode):
        shares = shares_of_words(num_words, world_size, mode)
        assert len(shares) == world_size
        assert sorted(word for share in shares for word in share) == list(range(num_words))
    sizes = [len(share) for share in shares_of_words(num_words, world_size, "sharded")]
    assert max(sizes) - min(sizes) <= 1


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(AllocationError, match="'magic' is unknown; use one of dense, sharded"):
        exchange(statistics_of_rank(0, 1, "auto"), SingleProcess(), "magic")  # type: ignore[arg-type]
