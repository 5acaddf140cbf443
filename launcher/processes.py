"""The processes of a run: one rank a device, the same errors and the same end on all."""

import gc
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from allocation import TorchCommunicator, run_together
from data_shards import CorpusError
from launcher.bootstrap import Place, find_place, open_store
from launcher.watch import Limits, Watch, start_watch
from lightrnn.errors import LightRNNError

log = logging.getLogger("lightrnn")

Result = TypeVar("Result")

USER_ERRORS = (LightRNNError, CorpusError)
"""What a user can mend: reported in one line, exit status 2."""


class TrainingFailure(RuntimeError):
    """Training cannot go on, though its input was right; the same on all ranks."""


@dataclass(frozen=True)
class Processes:
    """This process among the others of the run.

    Attributes:
        rank: from 0.
        local_rank: from 0 on each host.
        world_size: number of processes.
        device: where this process computes.
        group: all processes, for tensors on `device` and on the CPU.
        watch: notices when one of them is lost or hangs.
    """

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup
    watch: Watch

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


@contextmanager
def joined_processes(
    place: Place | None = None, timeout_minutes: float = 10.0
) -> Iterator[Processes]:
    """Join the processes that were started together, or stand alone where there are none.

    NCCL carries tensors on GPUs and gloo those on the CPU.

    Args:
        place: of this process; found from its environment where it is not given.
        timeout_minutes: how long ranks wait for each other.

    Raises:
        SettingsError: the environment contradicts itself, or rank 0 cannot be met.
    """
    place = place or find_place()
    if place.rank == 0:
        warn_of_restarts(os.environ)
    rank, local_rank, world_size = place.rank, place.local_rank, place.world_size
    timeout = timedelta(minutes=timeout_minutes)
    store = open_store(place, timeout)
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
    dist.init_process_group(
        backend,
        store=store,
        rank=-1 if store is None else rank,
        world_size=-1 if store is None else world_size,
        timeout=timeout,
    )
    group = dist.group.WORLD
    assert group is not None
    watch = start_watch(
        group,
        place.address,
        Limits(start_seconds=60 * timeout_minutes),
        lambda seconds: _wait_for(group, seconds),
        USER_ERRORS,
    )
    try:
        yield Processes(rank, local_rank, world_size, device, group, watch)
    except BaseException as error:
        watch.end_unless_agreed(error, (*USER_ERRORS, TrainingFailure))
        traceback.clear_frames(error.__traceback__)  # they hold the model
        raise
    finally:
        watch.enter("the end")
        # A DDP model that outlives its group can deadlock in the group's destructor: collect first.
        gc.collect()
        watch.wait_for_others()
        dist.destroy_process_group()
        watch.leave()


def warn_of_restarts(environment: Mapping[str, str]) -> None:
    """Warn where torchrun would restart workers that then cannot find each other.

    They read each other's old addresses from the store of torchrun's agents (PyTorch 2.13).
    """
    restarts = environment.get("TORCHELASTIC_MAX_RESTARTS", "0")
    if restarts != "0" and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        log.warning(
            "torchrun --max-restarts %s fails with the store that its agents share: set "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun starts",
            restarts,
        )


def _wait_for(group: dist.ProcessGroup, seconds: float) -> None:
    """Let collectives of the group wait long enough for the watch to tell what they wait for."""
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1.5 * seconds + 10), group)
