"""The same function on every rank, whatever carries its messages: gloo, or MPI.

A test over MPI starts `mpiexec` with this file as its program. What it runs is named by module and
function, since nothing is forked.
"""

import functools
import importlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch.distributed as dist
from distributed import run_distributed

from allocation import Communicator, MPICommunicator, TorchCommunicator

Transport = Literal["gloo", "mpi"]
TIMEOUT_SECONDS = 120.0

every_transport = pytest.mark.parametrize(
    ("transport", "world_size"),
    [
        *(("gloo", size) for size in (1, 2, 4)),
        *(pytest.param("mpi", size, marks=pytest.mark.mpi) for size in (2, 4)),
    ],
)


@functools.cache
def run_on(
    transport: Transport, world_size: int, function: Callable[[Communicator], Any]
) -> list[Any]:
    """Run a function of a module with each rank's communicator; return results by rank."""
    if transport == "mpi":
        return _run_over_mpi(world_size, function)
    return run_distributed(lambda: function(over_gloo()), world_size)


def over_gloo(**options: Any) -> TorchCommunicator:
    """Return the communicator of all ranks of `run_distributed`."""
    assert dist.group.WORLD is not None
    return TorchCommunicator(dist.group.WORLD, **options)


def mpiexec_or_skip() -> str:
    """Return the path of `mpiexec`; skip the test where there is no MPI."""
    beside_python = Path(sys.executable).parent / "mpiexec"
    mpiexec = str(beside_python) if beside_python.exists() else shutil.which("mpiexec")
    if mpiexec is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py or mpiexec is missing: pip install 'lightrnn[mpi]'")
    return mpiexec


def _run_over_mpi(world_size: int, function: Callable[[Communicator], Any]) -> list[Any]:
    path = Path(sys.modules[function.__module__].__file__ or "")
    with tempfile.TemporaryDirectory() as folder:
        # -P: or else the folder of this file would come first, and hold other packages' names.
        command = [mpiexec_or_skip(), "-n", str(world_size), sys.executable, "-P", __file__]
        folders = [Path(__file__).parents[1], Path(__file__).parent, path.parent]
        ended = subprocess.run(
            [*command, path.stem, function.__name__, folder],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        results = [Path(folder, f"{rank}.result").read_bytes() for rank in range(world_size)]
        return [pickle.loads(result) for result in results]


def _run_rank(module: str, name: str, folder: Path) -> None:
    communicator = MPICommunicator()
    try:
        result = getattr(importlib.import_module(module), name)(communicator)
    except BaseException:
        # The others may wait for this rank for ever.
        sys.excepthook(*sys.exc_info())
        communicator.comm.Abort(1)
        raise
    (folder / f"{communicator.rank}.result").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _run_rank(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
