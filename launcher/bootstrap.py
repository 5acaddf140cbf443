"""How this process was started, and so its place among the others of its run."""

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, get_args

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from allocation import AllocationError, MPICommunicator
from allocation.collectives import broadcast_text
from launcher.settings import SettingsError

if TYPE_CHECKING:
    from mpi4py import MPI

Start = Literal["alone", "torchrun", "slurm", "mpi"]

CHOICE = "LIGHTRNN_START"
"""Variable that says how processes were started, where their environment leaves that open."""

_TORCHRUN = "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
_SLURM = "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"
_MPIEXEC = "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"
"""Set by `mpiexec` alone; `srun` may set the following ones too."""
_MPI_SIZES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"
_MPI = *_MPIEXEC, "PMI_SIZE", "PMIX_RANK"

_FIRST_PORT, _NUM_PORTS = 20_000, 12_000
"""Below the ports that systems give to outgoing connections."""


@dataclass(frozen=True)
class Place:
    """This process among the others of its run.

    Attributes:
        start: how it was started.
        rank: from 0.
        local_rank: from 0 on each host.
        world_size: number of processes.
        address: name or address of rank 0's host; empty where MPI tells it.
        port: where rank 0 is met there; 0 where it takes a free one.
    """

    start: Start
    rank: int
    local_rank: int
    world_size: int
    address: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.rank < self.world_size and 0 <= self.local_rank < self.world_size):
            raise SettingsError(
                f"{self.start} gave this process rank {self.rank}, local rank {self.local_rank} of "
                f"{self.world_size} processes, expected ranks from 0 to {self.world_size - 1}; "
                "mend the variables or the command that starts it"
            )


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place that torchrun, `srun` or MPI gave this process; alone without them.

    Under torchrun its variables count, whatever started torchrun itself.

    Raises:
        SettingsError: the environment contradicts itself or is incomplete.
    """
    match how_started(environment):
        case "torchrun":
            return _place_by_torchrun(environment)
        case "slurm":
            return _place_by_slurm(environment)
        case "mpi":
            return _place_by_mpi(environment)
        case _:
            return Place("alone", 0, 0, 1)


def how_started(environment: Mapping[str, str]) -> Start:
    """Return what gave this process its place.

    Raises:
        SettingsError: `LIGHTRNN_START` is none of its values, or a SLURM job of several tasks has
            only this process.
    """
    choice = environment.get(CHOICE, "auto")
    if choice in get_args(Start):
        return choice  # type: ignore[return-value]
    if choice != "auto":
        raise SettingsError(f"{CHOICE}={choice}, expected auto, {', '.join(get_args(Start))}")
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return "torchrun"
    if any(name in environment for name in _MPIEXEC):
        return "mpi"
    if "SLURM_STEP_ID" in environment:
        return "slurm"
    if any(name in environment for name in _MPI):
        return "mpi"
    num_tasks = environment.get("SLURM_NTASKS", "1")
    if num_tasks != "1":
        raise SettingsError(
            f"the SLURM job has {num_tasks} tasks, but this process was started without srun; put "
            f"srun before the command, srun -n 1 for one process, or set {CHOICE}=alone"
        )
    return "alone"


def open_store(place: Place, timeout: timedelta) -> Store | None:
    """Return where the ranks find each other; None where torchrun has made it.

    Raises:
        SettingsError: rank 0 cannot listen on the port.
    """
    if place.start == "torchrun":
        return None
    if place.world_size == 1:
        return HashStore()
    if place.start == "mpi":
        return _store_by_mpi(place, timeout)
    return _store(place, place.address, place.port, timeout)


def _store(place: Place, address: str, port: int, timeout: timedelta) -> TCPStore:
    try:
        return TCPStore(
            address, port, place.world_size, place.rank == 0, timeout, wait_for_workers=False
        )
    except dist.DistNetworkError as error:
        raise SettingsError(
            f"rank {place.rank} cannot meet the others at {address}:{port} "
            f"({str(error).splitlines()[0]}); set MASTER_ADDR and MASTER_PORT to the address of "
            "rank 0's host and a port that is free there"
        ) from error


# torchrun


def _place_by_torchrun(environment: Mapping[str, str]) -> Place:
    rank, local_rank, world_size, address, port = _values(environment, _TORCHRUN, "torchrun")
    _check_one_run(environment)
    return Place("torchrun", int(rank), int(local_rank), int(world_size), address, int(port))


def _check_one_run(environment: Mapping[str, str]) -> None:
    """Refuse several torchruns that know nothing of each other: they would share a run."""
    starters = ("srun", "SLURM_STEP_NUM_TASKS"), *(("mpiexec", name) for name in _MPI_SIZES)
    is_first = environment.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    for starter, name in starters:
        num_agents = environment.get(name, "1")
        if num_agents != "1" and environment.get("GROUP_WORLD_SIZE") == "1" and is_first:
            raise SettingsError(
                f"{starter} started {num_agents} torchruns ({name}), each for a run of its own; "
                f"give them --nnodes {num_agents} and one meeting point, or start without torchrun"
            )


# SLURM


def _place_by_slurm(environment: Mapping[str, str]) -> Place:
    rank, local_rank, world_size, hosts = _values(environment, _SLURM, "srun")
    one_host = environment.get("SLURM_STEP_NUM_NODES") == "1"
    address = "127.0.0.1" if one_host else first_host(hosts)
    # Another for every step of every start of every job: they may share the first host.
    numbers = "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID"
    job, start, step = (int(environment.get(name, 0)) for name in numbers)
    port = _FIRST_PORT + (101 * job + 11 * start + step) % _NUM_PORTS
    return Place(
        "slurm",
        int(rank),
        int(local_rank),
        int(world_size),
        environment.get("MASTER_ADDR", address),
        int(environment.get("MASTER_PORT", port)),
    )


def first_host(hosts: str) -> str:
    """Return the first host of SLURM's notation: `gpu-a1` of `gpu-a[1-4,7],gpu-b[1-2]`."""
    first = re.match(r"(?:\[[^]]*\]|[^,\[])+", hosts)
    return re.sub(r"\[([^-,\]]*)[^]]*\]", r"\1", first[0]) if first else hosts


# MPI


def world_of_mpi() -> "MPI.Intracomm":
    """Return the communicator of all processes that MPI started.

    Raises:
        SettingsError: mpi4py is not installed, or finds no MPI.
    """
    try:
        return MPICommunicator().comm
    except AllocationError as error:
        raise SettingsError(str(error)) from error


def _place_by_mpi(environment: Mapping[str, str]) -> Place:
    world = world_of_mpi()
    size = world.Get_size()
    names = _MPI_SIZES if "SLURM_STEP_ID" not in environment else (*_MPI_SIZES, _SLURM[2])
    started = next((environment[name] for name in names if name in environment), str(size))
    if started != str(size):
        raise SettingsError(
            f"{started} processes were started, but the MPI of mpi4py finds {size}: it is another "
            "MPI than that which started them; use the mpiexec that belongs to it, srun with the "
            f"fitting --mpi, or {CHOICE}=slurm"
        )
    from mpi4py import MPI

    on_this_host = world.Split_type(MPI.COMM_TYPE_SHARED)
    is_one_host = on_this_host.Get_size() == size
    address = "127.0.0.1" if is_one_host else socket.gethostname()
    return Place(
        "mpi",
        world.Get_rank(),
        on_this_host.Get_rank(),
        size,
        environment.get("MASTER_ADDR", address),
        int(environment.get("MASTER_PORT", 0)),
    )


def _store_by_mpi(place: Place, timeout: timedelta) -> TCPStore:
    """Let rank 0 listen, and tell the others where."""
    communicator = MPICommunicator()
    if place.rank == 0:
        store = _store(place, place.address, place.port, timeout)
        broadcast_text(f"{place.address} {store.port}", 0, communicator)
        return store
    address, port = broadcast_text("", 0, communicator).split()
    return _store(place, address, int(port), timeout)


def _values(environment: Mapping[str, str], names: tuple[str, ...], starter: str) -> list[str]:
    """Return the variables' values.

    Raises:
        SettingsError: one is missing, or no number where that is expected.
    """
    missing = [name for name in names if name not in environment]
    if missing:
        found = [name for name in names if name in environment]
        raise SettingsError(
            f"the environment has {' and '.join(found) or CHOICE} but not {', '.join(missing)}, "
            f"expected all of them; start with {starter}, or unset them"
        )
    for name in names:
        if name not in ("MASTER_ADDR", _SLURM[3]) and not environment[name].isdecimal():
            raise SettingsError(
                f"{name}={environment[name]!r}, expected a number; start with {starter}"
            )
    return [environment[name] for name in names]
