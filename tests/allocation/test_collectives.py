"""Ranks agree on errors and on tables; the helper that starts them tells what went wrong."""

import functools
import threading
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from distributed import run_distributed

from allocation import AllocationError, TorchCommunicator, run_together
from allocation.collectives import broadcast_table, broadcast_text, gather_bytes
from lightrnn import LightRNNError, WordTable

TEXTS = ["", "plain", "a line\nand another", "Größe, 語, 🌱, \0", "x" * 70_000]


def everyone() -> TorchCommunicator:
    assert dist.group.WORLD is not None
    return TorchCommunicator(dist.group.WORLD)


def caught(action) -> tuple[str, str]:
    """Return the type and the message of the error that `action` raises, or of none."""
    try:
        result = action()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", str(result)


def fail_on(failures: dict[int, Exception], **options) -> tuple[str, str]:
    """Run an action together that fails on some ranks; then talk once more, in the same order."""

    def action() -> str:
        rank = dist.get_rank()
        if rank in failures:
            raise failures[rank]
        return f"rank {rank}"

    outcome = caught(lambda: run_together(action, everyone(), **options))
    present = torch.ones(())
    dist.all_reduce(present)
    assert int(present) == dist.get_world_size()
    return outcome


NO_FAILURE: dict[int, Exception] = {}
USERS_ERRORS = {
    2: LightRNNError("two"),
    1: AllocationError("größer als 1 🌱"),
    3: OSError("three"),
}
A_PROGRAMS_ERROR_FIRST = {1: ZeroDivisionError("one"), 2: LightRNNError("two")}
USERS_WITHOUT_A_MESSAGE = {0: LightRNNError()}
PROGRAMS_WITHOUT_A_MESSAGE = {3: OSError()}
UNDECODABLE_FILE_NAME = {0: LightRNNError("cannot read \udcff.arrow")}
CASES = [
    (NO_FAILURE, [("", f"rank {rank}") for rank in range(4)]),
    (USERS_ERRORS, [("LightRNNError", "größer als 1 🌱")] * 4),
    (
        A_PROGRAMS_ERROR_FIRST,
        [
            ("RemoteError", "rank 1 failed: one"),
            ("ZeroDivisionError", "one"),
            ("LightRNNError", "two"),
            ("RemoteError", "rank 1 failed: one"),
        ],
    ),
    (USERS_WITHOUT_A_MESSAGE, [("LightRNNError", "")] * 4),
    (PROGRAMS_WITHOUT_A_MESSAGE, [("RemoteError", "rank 3 failed: ")] * 3 + [("OSError", "")]),
    (UNDECODABLE_FILE_NAME, [("LightRNNError", "cannot read \\udcff.arrow")] * 4),
]


@functools.cache
def outcomes_of_cases() -> list[list[tuple[str, str]]]:
    """Return for each rank what each of `CASES` ended in, from one start of the ranks."""
    return run_distributed(
        lambda: [fail_on(failures) for failures, _ in CASES], 4, timeout_seconds=20
    )


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_rank_learns_of_a_failure(case: int) -> None:
    _, expected = CASES[case]
    assert [by_case[case] for by_case in outcomes_of_cases()] == expected


def test_the_caller_says_which_errors_are_the_users() -> None:
    def own_errors() -> tuple[str, str]:
        return fail_on({1: FileNotFoundError("no file")}, user_errors=(OSError,))

    assert run_distributed(own_errors, 2) == [("LightRNNError", "no file")] * 2


def broadcast_all(texts: list[str]) -> list[str]:
    communicator = everyone()
    return [
        broadcast_text(text if communicator.rank == source else "mine", source, communicator)
        for source in range(communicator.world_size)
        for text in texts
    ]


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_text_arrives_whole_from_any_rank(world_size: int) -> None:
    assert run_distributed(broadcast_all, world_size, TEXTS) == [TEXTS * world_size] * world_size


def test_contents_are_gathered_in_the_order_of_ranks() -> None:
    gathered = run_distributed(lambda: gather_bytes(bytes([dist.get_rank(), 255]), everyone()), 3)
    assert gathered == [[b"\x00\xff", b"\x01\xff", b"\x02\xff"]] * 3


def test_rank_0s_table_is_everyones() -> None:
    old, new = (WordTable.random(10, 3, 4, seed) for seed in (0, 1))

    def receive() -> WordTable:
        # Another rank's own table is ignored.
        mine = WordTable.random(10, 3, 4, seed=7)
        return broadcast_table(new if dist.get_rank() == 0 else mine, old, everyone())

    assert all(table == new for table in run_distributed(receive, 3))


@pytest.mark.parametrize("damage", ["swapped", "shared cell", "outside"])
def test_a_table_that_arrives_changed_is_refused_on_every_rank(damage: str) -> None:
    old, new = WordTable.random(10, 3, 4, seed=0), WordTable.random(10, 3, 4, seed=1)
    differ = int(np.flatnonzero(new.row_of_word != new.row_of_word[0])[0])

    def receive() -> tuple[str, str]:
        broadcast = dist.broadcast

        def damaging(cells: torch.Tensor, **options) -> None:
            broadcast(cells, **options)
            if damage == "swapped":
                cells[[0, differ]] = cells[[differ, 0]]
            elif damage == "shared cell":
                cells.zero_()
            else:
                cells[0] = 99

        if dist.get_rank() == 2:
            with mock.patch.object(dist, "broadcast", damaging):
                return caught(lambda: broadcast_table(None, old, everyone()))
        return caught(lambda: broadcast_table(new, old, everyone()))

    outcomes = run_distributed(receive, 3, timeout_seconds=20)
    assert len(set(outcomes)) == 1
    name, message = outcomes[0]
    assert name == "AllocationError"
    assert message.startswith("ranks [2] received another table than rank 0")
    assert "\n" not in message


def fail_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise ValueError("only here")
    dist.barrier()


def hang_on_rank_1() -> None:
    if dist.get_rank() == 1:
        threading.Event().wait()


def test_a_failure_on_a_rank_fails_the_test_with_its_traceback() -> None:
    with pytest.raises(AssertionError) as error:
        run_distributed(fail_on_rank_1, 2)
    assert str(error.value).startswith("rank 1 failed:\nTraceback")
    assert "in fail_on_rank_1" in str(error.value)
    assert "ValueError: only here" in str(error.value)


def test_a_hang_fails_the_test_and_shows_where_it_hangs() -> None:
    with pytest.raises(AssertionError, match="rank 1 hung") as error:
        run_distributed(hang_on_rank_1, 2, timeout_seconds=1.5)
    assert "in hang_on_rank_1" in str(error.value)
    assert "rank 0" not in str(error.value)
    assert "test_a_hang_fails" not in str(error.value)
