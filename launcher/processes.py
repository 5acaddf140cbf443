"""The processes of a run: one rank a device, the same errors and the same end on all."""

import gc
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from allocation import TorchCommunicator, run_together
from data_shards import CorpusError
from launcher.settings import SettingsError
from lightrnn.errors import LightRNNError

Result = TypeVar("Result")

USER_ERRORS = (LightRNNError, CorpusError)
"""What a user can mend: reported in one line, exit status 2."""

_ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Processes:
    """This process among the others of the run.

    Attributes:
        rank: from 0.
        local_rank: from 0 on each host.
        world_size: number of processes.
        device: where this process computes.
        group: all processes, for tensors on `device` and on the CPU.
    """

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup

    @property
    def is_root(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def together(self, action: Callable[[], Result]) -> Result:
        """Run `action` everywhere; where it fails on one rank, all raise the same error."""
        return run_together(action, TorchCommunicator(self.group), USER_ERRORS)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a small tensor over all processes."""
        dist.all_reduce(values, group=self.group)
        return values

    def new_group(self, minutes: float) -> dist.ProcessGroup:
        """Return a group of all processes for CPU tensors that waits for `minutes`."""
        group = dist.new_group(backend="gloo", timeout=timedelta(minutes=minutes))
        assert isinstance(group, dist.ProcessGroup)
        return group


def place_in_environment() -> tuple[int, int, int]:
    """Return rank, local rank and world size as the launcher gave them; 0, 0, 1 without one.

    Raises:
        SettingsError: the launcher's environment variables are incomplete or not numbers.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return 0, 0, 1
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise SettingsError(
            f"the environment has RANK or WORLD_SIZE but not {', '.join(missing)}, expected all "
            "or none of them; start with torchrun"
        )
    try:
        rank, local_rank, world_size = (int(os.environ[name]) for name in _ENVIRONMENT[:3])
    except ValueError as error:
        raise SettingsError(f"{error} in RANK, LOCAL_RANK or WORLD_SIZE; use torchrun") from error
    return rank, local_rank, world_size


@contextmanager
def joined_processes(timeout_minutes: float = 10.0) -> Iterator[Processes]:
    """Join the processes that torchrun started, or stand alone where there are none.

    NCCL carries tensors on GPUs and gloo those on the CPU.

    Raises:
        SettingsError: the launcher's environment variables are incomplete.
    """
    rank, local_rank, world_size = place_in_environment()
    alone = "RANK" not in os.environ
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
    dist.init_process_group(
        backend,
        store=HashStore() if alone else None,
        rank=rank if alone else -1,
        world_size=world_size if alone else -1,
        timeout=timedelta(minutes=timeout_minutes),
    )
    assert dist.group.WORLD is not None
    try:
        yield Processes(rank, local_rank, world_size, device, dist.group.WORLD)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the model
        raise
    finally:
        # A DDP model that outlives its group can deadlock in the group's destructor: collect first.
        gc.collect()
        dist.destroy_process_group()
