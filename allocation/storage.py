"""Where arrays over all words go: on the device, in memory, or in files, by a budget."""

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allocation.errors import AllocationError

CPU = torch.device("cpu")
GIB = 2**30


class Storage:
    """Arrays of one process: in memory as long as the budget lasts, in files beyond it.

    A file has no name in its folder, so that nothing is left behind, whatever ends the process.

    Args:
        memory_gib: budget of this process for the arrays made here, GiB.
        folder: where the files lie; without it the system's folder for temporary files.
    """

    def __init__(self, memory_gib: float = math.inf, folder: Path | None = None) -> None:
        self.memory_gib = memory_gib
        self.folder = folder or Path(tempfile.gettempdir())
        self.left_bytes = memory_gib * GIB

    def zeros(self, *size: int, dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
        """Make an array of zeros.

        Args:
            size: shape.
            dtype: of its elements.
            device: where it had best be: there if it takes up half of what is free or less, else
                in the host's memory, pinned; in a file where the budget does not suffice.

        Raises:
            AllocationError: the folder of the files has no room for it.
        """
        num_bytes = math.prod(size) * dtype.itemsize
        if num_bytes > self.left_bytes:
            return self._in_file(size, dtype, num_bytes)
        self.left_bytes -= num_bytes
        if device.type != "cuda":
            return torch.zeros(size, dtype=dtype)
        free_bytes, _ = torch.cuda.mem_get_info(device)
        if num_bytes <= free_bytes // 2:
            return torch.zeros(size, dtype=dtype, device=device)
        return torch.zeros(size, dtype=dtype, pin_memory=True)

    def _in_file(self, size: tuple[int, ...], dtype: torch.dtype, num_bytes: int) -> Tensor:
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                # Now, since a disk that is full at the first touch of a page kills the process.
                os.posix_fallocate(file.fileno(), 0, num_bytes)
                content = np.memmap(file, np.uint8, "r+", shape=(num_bytes,))
        except OSError as error:
            raise AllocationError(self._refusal(num_bytes, error)) from error
        return torch.from_numpy(content).view(dtype).view(size)

    def _refusal(self, num_bytes: int, error: OSError) -> str:
        try:
            free = f"{shutil.disk_usage(self.folder).free / GIB:.3g} GiB are free"
        except OSError:
            free = "nothing can be written"
        return (
            f"the statistics of all words need {num_bytes / GIB:.3g} GiB in {self.folder}, where "
            f"{free} ({error.strerror}); make room there or raise allocation.memory_gib (now "
            f"{self.memory_gib:g})"
        )
