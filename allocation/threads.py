"""Work on all cores of this process, by threads that each use one."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numba
import numpy as np  # noqa: F401  the controller finds the libraries that are loaded
from threadpoolctl import ThreadpoolController

Piece = TypeVar("Piece")

_LIBRARIES = ThreadpoolController()


def side_by_side(work: Callable[[Piece], None], pieces: Sequence[Piece]) -> None:
    """Do the work for each piece, on as many threads as numba has.

    NumPy's matrix products use one thread each meanwhile. Those that they start otherwise go on
    turning for a while when a product is done, and take the cores from what comes after it.

    Raises:
        Exception: what the first failing piece raises.
    """
    with _LIBRARIES.limit(limits=1, user_api="blas"):
        if len(pieces) == 1:
            work(pieces[0])
            return
        with ThreadPoolExecutor(numba.get_num_threads()) as threads:
            for _ in threads.map(work, pieces):
                pass
