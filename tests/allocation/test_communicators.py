"""Arrays of any size and type arrive whole, in messages no larger than a block."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from transports import Transport, every_transport, run_on

from allocation import Communicator, SingleProcess, TorchCommunicator

Array = npt.NDArray[Any]

SIZES = [(0,), (1,), (64,), (65, 3), (1000,)]
DTYPES = ["float64", "float32", "int64", "int32", "uint8"]
BYTES_ONLY = ["uint16", "bool"]
BLOCK_BYTES = 200
"""Less than most of the arrays, and no multiple of their elements' sizes."""


def array_of(rank: int, size: tuple[int, ...], dtype: str) -> Array:
    """Return numbers that all ranks know of each other, exact in every type."""
    return np.random.default_rng(rank).integers(0, 30, size).astype(dtype)


def all_cases() -> Iterator[tuple[tuple[int, ...], str]]:
    return ((size, dtype) for size in SIZES for dtype in DTYPES)


def talk(communicator: Communicator) -> dict[str, list[Any]]:
    """Use every function for every kind of array, and note the sizes of the messages."""
    communicator.block_bytes = BLOCK_BYTES
    rank, last = communicator.rank, communicator.world_size - 1
    messages = watch(communicator)
    found: dict[str, list[Any]] = {name: [] for name in ("sum", "min", "reduce", "broadcast")}
    for case in all_cases():
        for reduction in ("sum", "min"):
            array = array_of(rank, *case)
            communicator.all_reduce(array, reduction)
            found[reduction].append(array)
        array = array_of(rank, *case)
        communicator.reduce(array, root=last)
        found["reduce"].append(array if rank == last else None)
    for size in SIZES:
        for dtype in DTYPES + BYTES_ONLY:
            array = array_of(rank, size, dtype)
            communicator.broadcast(array, root=last)
            found["broadcast"].append(array)
    found["bytes"] = [communicator.bytes_sent]
    found["messages"] = [max(messages)]
    found["ring"] = round_the_ring(communicator)
    return found


def watch(communicator: Communicator) -> list[int]:
    """Return a list that will hold the size of every message."""
    messages: list[int] = []

    def watched(original: Callable[..., None], part: Array, *options: Any) -> None:
        messages.append(part.nbytes)
        original(part, *options)

    for name in ("_all_reduce", "_reduce", "_broadcast", "_send", "_receive"):
        original = getattr(communicator, name)
        setattr(communicator, name, functools.partial(watched, original))
    return messages


def round_the_ring(communicator: Communicator) -> list[Array]:
    """Hand a number from rank to rank, each of which adds one more; rank 0 gets it back."""
    rank, world_size = communicator.rank, communicator.world_size
    token = np.arange(500, dtype=np.uint16)
    if world_size > 1:
        if rank == 0:
            # Neither writeable nor contiguous: sending leaves an array as it is.
            start = np.repeat(token, 2)[::2]
            start.setflags(write=False)
            communicator.send(start, 1)
        communicator.receive(token, (rank - 1) % world_size)
        if rank > 0:
            communicator.send(token + np.uint16(1), (rank + 1) % world_size)
    return [token]


@every_transport
def test_every_rank_gets_what_it_should(transport: Transport, world_size: int) -> None:
    results = run_on(transport, world_size, talk)
    last = world_size - 1
    for number, case in enumerate(all_cases()):
        arrays = [array_of(rank, *case) for rank in range(world_size)]
        total, least = sum(arrays[1:], start=arrays[0]), np.min(arrays, axis=0)
        for result in results:
            np.testing.assert_array_equal(result["sum"][number], total, strict=True)
            np.testing.assert_array_equal(result["min"][number], least, strict=True)
        np.testing.assert_array_equal(results[last]["reduce"][number], total, strict=True)
    cases = ((size, dtype) for size in SIZES for dtype in DTYPES + BYTES_ONLY)
    for number, case in enumerate(cases):
        for result in results:
            expected = array_of(last, *case)
            np.testing.assert_array_equal(result["broadcast"][number], expected, strict=True)
    np.testing.assert_array_equal(results[0]["ring"][0], np.arange(500) + world_size - 1)


@every_transport
def test_no_message_is_larger_than_a_block(transport: Transport, world_size: int) -> None:
    for result in run_on(transport, world_size, talk):
        assert 192 <= result["messages"][0] <= BLOCK_BYTES


@every_transport
def test_bytes_are_counted_where_they_come_from(transport: Transport, world_size: int) -> None:
    reduced = sum(array_of(0, *case).nbytes for case in all_cases())
    broadcast = sum(array_of(0, size, dtype).nbytes for size in SIZES for dtype in BYTES_ONLY)
    for rank, result in enumerate(run_on(transport, world_size, talk)):
        root_only = reduced + broadcast if rank == world_size - 1 else 0
        assert result["bytes"] == [3 * reduced + root_only]


@pytest.mark.parametrize("block_bytes", [0, 7, 2**30 + 1])
def test_no_block_is_larger_than_a_gibibyte(block_bytes: int) -> None:
    with pytest.raises(ValueError, match=rf"block_bytes={block_bytes}, expected 8 to {2**30}"):
        SingleProcess(block_bytes)


def test_an_array_that_cannot_be_changed_in_place_is_refused() -> None:
    for array in (np.zeros((3, 4)).T, np.zeros(3)[::2]):
        with pytest.raises(ValueError, match="contiguous"):
            SingleProcess().all_reduce(array)


def test_a_single_process_is_alone() -> None:
    array = np.arange(5)
    for rank in (0, 1):
        with pytest.raises(ValueError, match=f"rank {rank} does not exist"):
            SingleProcess().send(array, rank)
        with pytest.raises(ValueError, match=f"rank {rank} does not exist"):
            SingleProcess().receive(array, rank)
    assert talk(SingleProcess())["sum"][-1].tolist() == array_of(0, (1000,), "uint8").tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_arrays_go_over_nccl_by_way_of_the_gpu() -> None:
    dist.init_process_group("nccl", store=HashStore(), rank=0, world_size=1)
    try:
        assert dist.group.WORLD is not None
        found = talk(TorchCommunicator(dist.group.WORLD, torch.device("cuda")))
    finally:
        dist.destroy_process_group()
    for reduction in ("sum", "min", "reduce"):
        for case, array in zip(all_cases(), found[reduction], strict=True):
            np.testing.assert_array_equal(array, array_of(0, *case), strict=True)
