"""Arrays that lie in files without a name: nothing is left behind, whatever ends the process."""

import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from allocation.errors import AllocationError


class GrowingFile:
    """An array on disk that is written part by part, then memory-mapped.

    It lies in the system's folder for temporary files, which `TMPDIR` changes.

    Args:
        dtype: of its elements.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is mapped
        self._length = 0

    def append(self, part: npt.NDArray[Any]) -> None:
        """Write a part at the end.

        Raises:
            AllocationError: the disk is full.
        """
        try:
            self._file.write(part.astype(self.dtype, copy=False).tobytes())
            self._file.flush()
        except OSError as error:
            raise AllocationError(
                f"{tempfile.gettempdir()} has no room for counts of word pairs "
                f"({error.strerror}); make room there or set TMPDIR to a larger folder"
            ) from error
        self._length += len(part)

    def map(self) -> npt.NDArray[Any]:
        """Return the array, memory-mapped; nothing can be appended after it."""
        with self._file:
            if self._length == 0:
                return np.empty(0, self.dtype)
            return np.memmap(self._file, self.dtype, "r+", shape=(self._length,))
