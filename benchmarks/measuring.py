"""What all benchmarks measure in the same way: memory of a process, the machine, the versions."""

import multiprocessing
import os
import platform
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")

GIB = 2**30
LIBRARIES = "numpy", "scipy", "numba", "torch"


def in_own_process(
    work: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """Run a function of a module in a fresh process, so that its memory is its own.

    Raises:
        BrokenProcessPool: the process was killed, as for too much memory.
        Exception: what the function raises.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(work, *args, **kwargs).result()


def peak_rss_gib() -> float:
    """Return the most memory that this process had at a time, GiB, files it mapped included."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            # Unlike the one of `getrusage`, this figure does not begin with that of the parent.
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / GIB
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def free_memory_gib(device: str = "cpu") -> float:
    """Return the memory that a new process can have, GiB, on the CPU or (`cuda`) on a GPU."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / GIB
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024 / GIB
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def machine() -> dict[str, str | int | float]:
    """Return what the figures depend on."""
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        **_gpu(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that do the work."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def _gpu() -> dict[str, str | float]:
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    return {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / GIB, 1)}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
