"""A reallocation: the same table and report on every rank and for any number of them, or one error.

Legend: V words, R rows, C columns.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from distributed import run_distributed
from random_models import Batches, lanes_of_rank, random_batches, random_model
from torch import Tensor

import allocation.phase
from allocation import (
    AllocationError,
    CellCosts,
    DenseCosts,
    ExchangeMode,
    Method,
    Moves,
    ReallocationReport,
    SolverName,
    TorchCommunicator,
    TrustRegion,
    check_certificate,
    collect_statistics,
    reallocate,
    with_stay_bonus,
)
from allocation.solvers import solve_exact
from lightrnn import LightRNN, WordTable, sum_losses

NUM_WORDS, NUM_ROWS, NUM_COLUMNS = 45, 7, 7
LENGTHS = (120, 119, 120, 62, 119)
"""Long enough that every word occurs: one that does not may lie in any spare cell."""

MODEL, TABLE = random_model(NUM_WORDS, NUM_ROWS, NUM_COLUMNS, hidden_size=8)
_, BATCHES = random_batches(NUM_WORDS, LENGTHS, bptt=13)

Outcome = tuple[WordTable, ReallocationReport]


def my_batches() -> Batches:
    return lanes_of_rank(BATCHES, dist.get_rank(), dist.get_world_size())


def reallocate_here(batches=None, model: LightRNN = MODEL, **options) -> Outcome:
    group = dist.group.WORLD
    assert group is not None
    if batches is None:
        batches = my_batches()
    return reallocate(model, TABLE, batches, communicator=TorchCommunicator(group), **options)


def method(solver: SolverName = "auto", stay_bonus: float = 0.0, **options) -> Method:
    return Method(solver, trust_region=TrustRegion(stay_bonus=stay_bonus), **options)


CASES: list[tuple[SolverName, float]] = [
    *((solver, bonus) for solver in get_args(SolverName) for bonus in (0.0, 0.3)),
    ("exact", 1e6),
]


@functools.cache
def all_outcomes(world_size: int) -> list[list[Outcome]]:
    """Return every rank's table and report for each of `CASES`, from one start of the ranks."""

    def reallocate_all() -> list[Outcome]:
        return [reallocate_here(method=method(*case)) for case in CASES]

    return run_distributed(reallocate_all, world_size)


def outcomes(
    world_size: int, solver: SolverName = "auto", stay_bonus: float = 0.0
) -> list[Outcome]:
    """Return every rank's table and report."""
    case = CASES.index((solver, stay_bonus))
    return [by_case[case] for by_case in all_outcomes(world_size)]


def without_rank(report: ReallocationReport) -> ReallocationReport:
    """Leave out what is a rank's own: its seconds."""
    return dataclasses.replace(report, seconds=allocation.phase.Seconds(0, 0, 0, 0))


@functools.cache
def costs() -> CellCosts:
    statistics = collect_statistics(MODEL, BATCHES)
    losses = statistics.block(slice(0, NUM_WORDS))
    return DenseCosts(losses[:, :NUM_ROWS], losses[:, NUM_ROWS:], statistics.counts_V)


every_solver = pytest.mark.parametrize("solver", get_args(SolverName))


@every_solver
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_rank_gets_the_same_table_and_report(world_size: int, solver: SolverName) -> None:
    (table, report), *others = outcomes(world_size, solver)
    for other_table, other_report in others:
        assert other_table.fingerprint == table.fingerprint
        assert without_rank(other_report) == without_rank(report)
    assert report.solver == ("exact" if solver == "auto" else solver)
    assert all(seconds >= 0 for seconds in dataclasses.astuple(report.seconds))


@every_solver
@pytest.mark.parametrize("world_size", [2, 4])
def test_the_number_of_processes_changes_nothing(world_size: int, solver: SolverName) -> None:
    one_table, one_report = outcomes(1, solver)[0]
    table, report = outcomes(world_size, solver)[0]
    assert table == one_table
    for field in dataclasses.fields(report):
        found, expected = getattr(report, field.name), getattr(one_report, field.name)
        if isinstance(found, float):
            # Rounding of hidden states, in float32; a percentage near zero has no digits to keep.
            expected = pytest.approx(expected, rel=1e-6, abs=1e-6)
        if field.name not in ("seconds", "tries"):
            assert found == expected, field.name


@every_solver
def test_the_report_tells_the_truth(solver: SolverName) -> None:
    table, report = outcomes(1, solver)[0]
    row_nll, column_nll, tokens = sum_losses(MODEL, BATCHES).tolist()
    assert report.tokens == tokens == sum(LENGTHS)
    assert report.loss_before == pytest.approx((row_nll + column_nll) / tokens, rel=1e-6)
    assert report.loss_predicted == pytest.approx(costs().objective(table) / tokens, rel=1e-7)
    assert report.solver_objective == report.loss_predicted
    moved = [
        word
        for word in range(NUM_WORDS)
        if (table.row_of_word[word], table.column_of_word[word])
        != (TABLE.row_of_word[word], TABLE.column_of_word[word])
    ]
    counts = collect_statistics(MODEL, BATCHES).counts_V
    assert float(counts.min()) > 0
    assert report.words_moved == len(moved) > NUM_WORDS // 2
    assert report.words_moved_fraction == pytest.approx(len(moved) / NUM_WORDS)
    assert report.tokens_moved_fraction == pytest.approx(float(counts[moved].sum()) / tokens)
    word_bytes = 8 * (NUM_ROWS + NUM_COLUMNS)
    # Losses and counts of all words; the loss and its moments, 2 + 9; errors agreed on, twice.
    assert report.bytes_exchanged == NUM_WORDS * (word_bytes + 8) + 8 * (2 + 9 + 2)


@every_solver
@pytest.mark.parametrize("stay_bonus", [0.0, 0.3])
def test_the_promise_is_kept_between_its_bounds(solver: SolverName, stay_bonus: float) -> None:
    _, report = outcomes(2, solver, stay_bonus)[0]
    assert report.solver_objective <= report.loss_before * (1 + 1e-6)
    assert report.loss_predicted <= report.solver_objective * (1 + 1e-12)
    assert report.lower_bound <= report.solver_objective
    assert 0 <= report.gap_percent < 100
    gap = report.solver_objective - report.lower_bound
    assert report.gap_percent == pytest.approx(100 * gap / report.solver_objective, abs=1e-9)
    # The exact solver knows the optimum, which the bound may reach and never pass.
    best = with_stay_bonus(costs(), TABLE, stay_bonus)
    optimum = solve_exact(best, TABLE, lambda _: None).objective / report.tokens
    assert report.lower_bound <= optimum * (1 + 1e-6)
    assert report.solver_objective >= optimum * (1 - 1e-6)
    # What is predicted is the text's loss, without the penalties that the solver was told.
    table = outcomes(2, solver, stay_bonus)[0][0]
    assert report.loss_predicted * report.tokens == pytest.approx(
        costs().objective(table), rel=1e-6
    )
    assert (report.loss_predicted < report.solver_objective - 1e-3) == (stay_bonus > 0)
    # Much is to be gained on a random table.
    assert report.loss_predicted < report.loss_before - 0.1


def test_a_bonus_keeps_words_and_a_huge_one_keeps_them_all() -> None:
    moved = [outcomes(2, "exact", bonus)[0][1].tokens_moved_fraction for bonus in (0.0, 0.3)]
    assert moved[1] < moved[0]
    for table, report in outcomes(2, "exact", 1e6):
        assert table == TABLE
        assert report.words_moved == 0
        assert report.tokens_moved_fraction == 0.0
        assert report.loss_predicted == pytest.approx(report.loss_before, rel=1e-6)


def test_the_model_its_table_and_mode_stay_as_they_are() -> None:
    def watch() -> bool:
        model, _ = random_model(NUM_WORDS, NUM_ROWS, NUM_COLUMNS, hidden_size=8, dropout=0.5)
        model.train()
        held = [*model.parameters(), model.row_of_word, model.column_of_word]
        before = [tensor.clone() for tensor in held]
        table, _ = reallocate_here(model=model)
        assert table != TABLE
        assert all(parameter.grad is None for parameter in model.parameters())
        return model.training and all(map(torch.equal, before, held))

    assert run_distributed(watch, 2) == [True, True]


def test_a_rank_without_lanes_takes_part() -> None:
    def batches() -> Batches:
        rank = dist.get_rank()
        return lanes_of_rank(BATCHES, rank, 3) if rank < 3 else []

    found = run_distributed(lambda: reallocate_here(batches(), method=method("exact"))[0], 4)
    assert found == [outcomes(1, "exact")[0][0]] * 4


def failure_of(action) -> tuple[str, str, bool]:
    """Return an error's type, its message, and whether the model still has the old table."""
    try:
        action()
    except Exception as error:
        old = torch.equal(MODEL.row_of_word, torch.tensor(TABLE.row_of_word)) and torch.equal(
            MODEL.column_of_word, torch.tensor(TABLE.column_of_word)
        )
        # All ranks are at the same place: they can still talk.
        everyone = torch.ones(())
        dist.all_reduce(everyone)
        return type(error).__name__, str(error), old and int(everyone) == dist.get_world_size()
    return "", "", True


def test_a_solver_that_refuses_is_refused_on_every_rank() -> None:
    def refuse(*_, **__) -> None:
        raise AllocationError("the solver wants more memory")

    def action() -> tuple[str, str, bool]:
        with mock.patch.object(allocation.phase, "choose_solver", return_value=refuse):
            return failure_of(reallocate_here)

    outcome = ("LightRNNError", "the solver wants more memory", True)
    assert run_distributed(action, 3) == [outcome] * 3


def test_a_solver_that_breaks_is_told_by_rank_0() -> None:
    def action() -> tuple[str, str, bool]:
        with mock.patch.object(
            allocation.phase, "choose_solver", side_effect=MemoryError("out of memory")
        ):
            return failure_of(reallocate_here)

    assert run_distributed(action, 3) == [
        ("MemoryError", "out of memory", True),
        ("RemoteError", "rank 0 failed: out of memory", True),
        ("RemoteError", "rank 0 failed: out of memory", True),
    ]


def test_losses_that_are_not_finite_are_refused_on_every_rank() -> None:
    def action() -> tuple[str, str, bool]:
        with torch.no_grad():
            MODEL.row_head.bias[3] = torch.nan
        return failure_of(reallocate_here)

    outcomes = run_distributed(action, 3)
    assert outcomes == [outcomes[0]] * 3
    name, message, old_table = outcomes[0]
    assert name == "LightRNNError"
    assert "expected finite losses; check the model's parameters" in message
    assert "\n" not in message
    assert old_table


@pytest.mark.parametrize("failing", [0, 2])
def test_a_rank_that_cannot_read_its_text_stops_all_of_them(failing: int) -> None:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield my_batches()[0]
        if dist.get_rank() == failing:
            raise OSError("the disk is gone")
        yield from my_batches()[1:]

    outcomes = run_distributed(lambda: failure_of(lambda: reallocate_here(batches())), 3)
    own = ("OSError", "the disk is gone", True)
    told = ("RemoteError", f"rank {failing} failed: the disk is gone", True)
    assert outcomes == [own if rank == failing else told for rank in range(3)]


def test_an_unknown_solver_is_refused_on_every_rank() -> None:
    outcomes = run_distributed(
        lambda: failure_of(lambda: reallocate_here(method=method("magic"))),
        2,  # type: ignore[arg-type]
    )
    assert outcomes == [outcomes[0]] * 2
    assert outcomes[0][0] == "LightRNNError"
    assert "use one of auto, exact, auction" in outcomes[0][1]


def test_progress_is_told_on_rank_0() -> None:
    def action() -> list[str]:
        lines: list[str] = []
        reallocate_here(on_progress=lines.append)
        return lines

    first, second = run_distributed(action, 2)
    assert first[0] == second[0] == "adding up statistics over the training text"
    assert any(line.startswith("exact") for line in first)
    assert len(second) == 1


Sum = tuple[str, float, float]


@functools.cache
def table_and_proof(world_size: int, mode: ExchangeMode, moves: Moves) -> Sum:
    """Return the table's fingerprint, its objective and its bound, the same on every rank."""

    def action() -> Sum:
        region = TrustRegion(moves=moves, stay_bonus=0.05)
        chosen = Method("auction", exchange=mode, trust_region=region)
        table, report = reallocate_here(method=chosen)
        return table.fingerprint, report.solver_objective, report.lower_bound

    first, *others = run_distributed(action, world_size)
    assert others == [first] * (world_size - 1)
    return first


@pytest.mark.parametrize("moves", get_args(Moves))
@pytest.mark.parametrize("mode", get_args(ExchangeMode))
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_table_and_bound_are_the_same_for_every_exchange(
    world_size: int, mode: ExchangeMode, moves: Moves
) -> None:
    table, *proof = table_and_proof(world_size, mode, moves)
    expected_table, *expected_proof = table_and_proof(1, "dense", moves)
    assert table == expected_table
    assert proof == pytest.approx(expected_proof, rel=1e-6)
    # Whoever works a table out from the same sums proves the same, bit for bit.
    assert proof == list(table_and_proof(world_size, "dense", moves)[1:])


def test_columns_alone_move_within_rows() -> None:
    region = TrustRegion(moves="columns")
    ((table, report),) = run_distributed(
        lambda: reallocate_here(method=Method(trust_region=region)), 1
    )
    assert table != TABLE
    assert table.row_of_word.tolist() == TABLE.row_of_word.tolist()
    assert (report.moves, report.solver) == ("columns", "within rows")
    assert report.gap_percent < 1e-4
    assert outcomes(1, "exact")[0][1].loss_predicted < report.loss_predicted < report.loss_before


def test_a_table_that_is_worse_on_held_out_text_is_not_taken() -> None:
    def action() -> tuple[bool, ReallocationReport]:
        tables = []

        def measure(table: WordTable) -> float:
            tables.append(table)
            return 5.0 + float((table.row_of_word != TABLE.row_of_word).mean())

        chosen = Method(trust_region=TrustRegion(max_tries=3))
        table, report = reallocate_here(method=chosen, held_out_loss=measure)
        assert tables[0] == TABLE
        return table == TABLE, report

    for is_old, report in run_distributed(action, 2):
        assert is_old
        assert not report.accepted
        assert [attempt.stay_bonus for attempt in report.tries] == [0.0, 0.1, 0.2]
        assert report.held_out_before == 5.0
        assert report.held_out_after == report.tries[-1].held_out_loss > 5.0


@pytest.mark.parametrize("mode", get_args(ExchangeMode))
@pytest.mark.parametrize("moves", get_args(Moves))
def test_the_certificate_on_file_proves_the_table(
    mode: ExchangeMode, moves: Moves, tmp_path: Path
) -> None:
    folder = tmp_path / "certificates" / "table-0001"

    def action() -> Outcome:
        region = TrustRegion(moves=moves, stay_bonus=0.1)
        chosen = Method("auction", exchange=mode, trust_region=region)
        return reallocate_here(method=chosen, certificate=folder)

    (table, report), *_ = run_distributed(action, 3)
    assert len(list(folder.iterdir())) == (1 if mode == "dense" else 3)
    claim = check_certificate(folder, table)
    assert claim.objective == pytest.approx(report.solver_objective * report.tokens, rel=1e-12)
    assert claim.lower_bound == pytest.approx(report.lower_bound * report.tokens, rel=1e-9)
    with pytest.raises(AllocationError, match="is of another table; remove"):
        check_certificate(folder, TABLE)
    last = max(folder.iterdir())
    if mode == "sharded":
        last.rename(folder / "part-00007-of-00003.safetensors")
        with pytest.raises(AllocationError, match="should hold 3 parts, but part-00002"):
            check_certificate(folder, table)
    else:
        last.write_bytes(last.read_bytes()[:-3])
        with pytest.raises(AllocationError, match="cannot be read"):
            check_certificate(folder, table)


def test_a_certificate_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    def action() -> list[str]:
        lines: list[str] = []
        chosen = Method(certificate_gib=1e-9)
        reallocate_here(method=chosen, certificate=tmp_path / "it", on_progress=lines.append)
        return lines

    assert "more than allocation.certificate_gib=1e-09" in run_distributed(action, 2)[0][-1]
    assert not (tmp_path / "it").exists()
