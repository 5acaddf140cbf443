"""Arrays go to memory as long as the budget lasts, and to files that leave nothing behind."""

import math
import tempfile
from pathlib import Path

import pytest
import torch

from allocation import AllocationError, Storage
from allocation.storage import GIB


def is_in_file(array: torch.Tensor) -> bool:
    """Tell whether the array's first byte lies in a mapping of a file."""
    address = array.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, stop = (int(edge, 16) for edge in line.split()[0].split("-"))
        if start <= address < stop:
            return line.endswith("(deleted)")
    raise AssertionError(f"{address:x} is not mapped")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_arrays_beyond_the_budget_go_to_files(tmp_path: Path, dtype: torch.dtype) -> None:
    num_words = 10_000
    storage = Storage(2.5 * num_words * 3 * dtype.itemsize / GIB, tmp_path)
    arrays = [storage.zeros(num_words, 3, dtype=dtype) for _ in range(4)]
    assert [is_in_file(array) for array in arrays] == [False, False, True, True]
    # What is smaller still has room.
    assert not is_in_file(storage.zeros(num_words, 1, dtype=dtype))
    for number, array in enumerate(arrays):
        assert array.shape == (num_words, 3)
        assert array.dtype == dtype
        assert not array.any()
        array += number
    assert [float(array.mean()) for array in arrays] == [0, 1, 2, 3]
    assert list(tmp_path.iterdir()) == []


def test_without_a_budget_all_goes_to_memory() -> None:
    storage = Storage()
    assert storage.folder == Path(tempfile.gettempdir())
    assert not is_in_file(storage.zeros(1000, 1000, dtype=torch.float64))
    assert storage.memory_gib == math.inf


def test_nothing_takes_no_file(tmp_path: Path) -> None:
    assert Storage(0, tmp_path / "none").zeros(0, 5, dtype=torch.float64).shape == (0, 5)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AllocationError) as error:
        Storage(0.5, tmp_path).zeros(2**47, dtype=torch.float64)
    message = str(error.value)
    assert message.startswith(
        f"the statistics of all words need 1.05e+06 GiB in {tmp_path}, where "
    )
    assert "GiB are free (" in message
    assert message.endswith("make room there or raise allocation.memory_gib (now 0.5)")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AllocationError) as error:
        Storage(0, tmp_path / "none").zeros(5, dtype=torch.float64)
    assert "none, where nothing can be written (No such file or directory)" in str(error.value)
