"""What a reallocation asks of a network: numpy arrays between ranks, over torch or over MPI.

Every function is called by all ranks in the same order, but for `send` and `receive`. Nothing is
pickled, and no message is larger than a block.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from allocation.errors import AllocationError

if TYPE_CHECKING:
    from mpi4py import MPI

Array: TypeAlias = npt.NDArray[Any]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Reduction = Literal["sum", "min"]

BLOCK_BYTES = 64 * 2**20
MAX_BLOCK_BYTES = 2**30


class Communicator(ABC):
    """The ranks of a reallocation.

    Args:
        rank: of this process, from 0.
        world_size: number of processes.
        block_bytes: no message is larger; a longer array goes in several.

    Attributes:
        bytes_sent: what this rank handed over so far: arrays to reduce, on every rank; arrays to
            broadcast, on their root; and what it sent.

    Raises:
        ValueError: `block_bytes` is below 8 or above 1 GiB.
    """

    def __init__(self, rank: int, world_size: int, block_bytes: int = BLOCK_BYTES) -> None:
        if not 8 <= block_bytes <= MAX_BLOCK_BYTES:
            raise ValueError(f"block_bytes={block_bytes}, expected 8 to {MAX_BLOCK_BYTES}")
        self.rank, self.world_size, self.block_bytes = rank, world_size, block_bytes
        self.bytes_sent = 0

    def all_reduce(self, array: Array, reduction: Reduction = "sum") -> None:
        """Replace an array on every rank by its sum (or its minimum) over ranks."""
        self.bytes_sent += array.nbytes
        for part in self._parts(array):
            self._all_reduce(part, reduction)

    def reduce(self, array: Array, root: int = 0) -> None:
        """Replace an array on one rank by its sum over ranks; on the others it is left undefined.

        With the words of each rank as the root of their sums, this is a reduce-scatter by blocks
        of any size.
        """
        self.bytes_sent += array.nbytes
        for part in self._parts(array):
            self._reduce(part, root)

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace an array on every rank by that of one."""
        if self.rank == root:
            self.bytes_sent += array.nbytes
        for part in self._parts(array):
            self._broadcast(part.view(np.uint8), root)

    def send(self, array: Array, destination: int) -> None:
        """Send an array to a rank that receives one of this size and type."""
        self.bytes_sent += array.nbytes
        for part in self._parts(np.require(array, requirements=["C", "W"])):
            self._send(part.view(np.uint8), destination)

    def receive(self, array: Array, source: int) -> None:
        """Replace an array by what another rank sends; wait for it as long as the network does."""
        for part in self._parts(array):
            self._receive(part.view(np.uint8), source)

    def _parts(self, array: Array) -> Iterator[Array]:
        """Yield views of an array, each of one block or less."""
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueError("expected an array that is contiguous and may be written to")
        flat = array.reshape(-1)
        size = self.block_bytes // array.itemsize
        for start in range(0, len(flat), size):
            yield flat[start : start + size]

    @abstractmethod
    def _all_reduce(self, part: Array, reduction: Reduction) -> None: ...

    @abstractmethod
    def _reduce(self, part: Array, root: int) -> None: ...

    @abstractmethod
    def _broadcast(self, part: Bytes, root: int) -> None: ...

    @abstractmethod
    def _send(self, part: Bytes, destination: int) -> None: ...

    @abstractmethod
    def _receive(self, part: Bytes, source: int) -> None: ...


class SingleProcess(Communicator):
    """One rank without a network."""

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__(0, 1, block_bytes)

    def _all_reduce(self, part: Array, reduction: Reduction) -> None:
        pass

    def _reduce(self, part: Array, root: int) -> None:
        pass

    def _broadcast(self, part: Bytes, root: int) -> None:
        pass

    def _send(self, part: Bytes, destination: int) -> None:
        raise ValueError(f"rank {destination} does not exist, expected more processes")

    def _receive(self, part: Bytes, source: int) -> None:
        raise ValueError(f"rank {source} does not exist, expected more processes")


class TorchCommunicator(Communicator):
    """The ranks of a torch process group.

    Args:
        group: of any backend; its time-out has to outlast rank 0's longest work.
        device: which the backend takes tensors on. Arrays go to a GPU and back block by block.
        block_bytes: see `Communicator`.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        device: torch.device | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        super().__init__(dist.get_rank(group), dist.get_world_size(group), block_bytes)
        self.group, self.device = group, device or torch.device("cpu")

    @contextmanager
    def _on_device(self, part: Array) -> Iterator[Tensor]:
        """Yield a tensor whose contents are the part's, before and after."""
        on_host = torch.from_numpy(part)
        tensor = on_host.to(self.device)
        yield tensor
        if tensor is not on_host:
            on_host.copy_(tensor)

    def _all_reduce(self, part: Array, reduction: Reduction) -> None:
        operation = dist.ReduceOp.SUM if reduction == "sum" else dist.ReduceOp.MIN
        with self._on_device(part) as tensor:
            dist.all_reduce(tensor, operation, group=self.group)

    def _reduce(self, part: Array, root: int) -> None:
        with self._on_device(part) as tensor:
            dist.reduce(tensor, group=self.group, group_dst=root)

    def _broadcast(self, part: Bytes, root: int) -> None:
        with self._on_device(part) as tensor:
            dist.broadcast(tensor, group=self.group, group_src=root)

    def _send(self, part: Bytes, destination: int) -> None:
        dist.send(torch.from_numpy(part).to(self.device), group=self.group, group_dst=destination)

    def _receive(self, part: Bytes, source: int) -> None:
        with self._on_device(part) as tensor:
            dist.recv(tensor, group=self.group, group_src=source)


class MPICommunicator(Communicator):
    """The ranks of an MPI communicator.

    Args:
        comm: of mpi4py; without it all processes that `mpiexec` started.
        block_bytes: see `Communicator`.
        timeout_seconds: how long to wait for a message; it has to outlast rank 0's longest work.

    Raises:
        AllocationError: mpi4py is not installed, or finds no MPI.
    """

    def __init__(
        self,
        comm: "MPI.Intracomm | None" = None,
        block_bytes: int = BLOCK_BYTES,
        timeout_seconds: float = math.inf,
    ) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise AllocationError(
                f"MPI cannot be used: {error}; install it with pip install 'lightrnn[mpi]'"
            ) from error
        self.comm = MPI.COMM_WORLD if comm is None else comm
        super().__init__(self.comm.Get_rank(), self.comm.Get_size(), block_bytes)
        self._in_place, self._timeout_seconds = MPI.IN_PLACE, timeout_seconds
        self._operations: dict[Reduction, MPI.Op] = {"sum": MPI.SUM, "min": MPI.MIN}

    def _all_reduce(self, part: Array, reduction: Reduction) -> None:
        self._finish(self.comm.Iallreduce(self._in_place, part, self._operations[reduction]))

    def _reduce(self, part: Array, root: int) -> None:
        is_root = self.rank == root
        sent, received = (self._in_place, part) if is_root else (part, None)
        self._finish(self.comm.Ireduce(sent, received, self._operations["sum"], root))

    def _broadcast(self, part: Bytes, root: int) -> None:
        self._finish(self.comm.Ibcast(part, root))

    def _send(self, part: Bytes, destination: int) -> None:
        self._finish(self.comm.Isend(part, destination))

    def _receive(self, part: Bytes, source: int) -> None:
        self._finish(self.comm.Irecv(part, source))

    def _finish(self, request: "MPI.Request") -> None:
        """Wait without keeping a core busy: MPI's own waiting takes those that rank 0 solves on."""
        pause_seconds, deadline = 1e-5, time.monotonic() + self._timeout_seconds
        while not request.Test():
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"rank {self.rank} waited {self._timeout_seconds:g} seconds for a message of "
                    "MPI; see what became of the other ranks, or raise allocation.timeout_minutes"
                )
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, 1e-3)
