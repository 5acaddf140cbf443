"""Reallocations on file: what is read is what was written, and nothing false passes the check."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from allocation_instances import clustered_costs, random_start, silent
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from allocation import AllocationError, CellCosts, FactoredCosts, with_stay_bonus
from allocation.recorded import check_record, load_record, save_record, save_statistics
from allocation.solvers import Solution, solve_auction

Arrays = dict[str, npt.NDArray[Any]]

NUM_WORDS, NUM_ROWS, NUM_COLUMNS = 60, 8, 9


def factored_costs() -> FactoredCosts:
    """Costs with features of two widths, of which some are in single precision."""
    random = np.random.default_rng(3)
    counts_V = random.integers(1, 50, size=NUM_WORDS).astype(np.float64)
    row_features, column_features = (
        counts_V[:, None] * random.normal(size=(NUM_WORDS, width)) for width in (4, 5)
    )
    return FactoredCosts(
        (row_features.astype(np.float32), column_features),
        (random.normal(size=(NUM_ROWS, 4)), random.normal(size=(NUM_COLUMNS, 5))),
        (random.normal(size=NUM_ROWS), random.normal(size=NUM_COLUMNS)),
        (9 * counts_V, 8 * counts_V),
        counts_V,
    )


def costs_of_all_kinds() -> dict[str, CellCosts]:
    dense, factored = clustered_costs(NUM_WORDS, NUM_ROWS, NUM_COLUMNS), factored_costs()
    start = random_start(factored, seed=7)
    return {
        "dense": dense,
        "factored": factored,
        "stay bonus": with_stay_bonus(factored, start, 0.5),
    }


@pytest.fixture(params=list(costs_of_all_kinds()))
def costs(request: pytest.FixtureRequest) -> CellCosts:
    return costs_of_all_kinds()[request.param]


@pytest.fixture
def solution(costs: CellCosts) -> Solution:
    return solve_auction(costs, random_start(costs), silent)


@pytest.fixture
def path(tmp_path: Path, costs: CellCosts, solution: Solution) -> Path:
    path = tmp_path / "table-1.safetensors"
    save_record(path, costs, solution)
    return path


def change(path: Path, change_arrays: Callable[[Arrays], object], **claims: object) -> None:
    """Write a record anew after its arrays or claims were changed."""
    with safe_open(path, framework="np") as file:
        header = file.metadata()
    arrays = load_file(path)
    change_arrays(arrays)
    claim = json.dumps(json.loads(header["claim"]) | claims)
    save_file(arrays, path, header | {"claim": claim})


def nothing(arrays: Arrays) -> None:
    """Leave the arrays as they are."""


def test_what_is_read_is_what_was_written(path: Path, costs: CellCosts, solution: Solution) -> None:
    record = load_record(path)
    assert type(record.costs) is type(costs)
    for found, expected in zip(
        record.costs.losses(slice(None)), costs.losses(slice(None)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert record.table == solution.table
    np.testing.assert_array_equal(record.prices_RC, solution.prices_RC)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_record_is_worked_out_again(path: Path, solution: Solution) -> None:
    checked = check_record(path)
    assert checked.objective == solution.objective
    assert checked.lower_bound == solution.lower_bound
    assert checked.gap_percent == solution.gap_percent
    assert checked.solver == "auction"


def test_statistics_alone_can_be_solved_but_prove_nothing(tmp_path: Path, costs: CellCosts) -> None:
    path = tmp_path / "statistics.safetensors"
    start = random_start(costs)
    save_statistics(path, costs, start)
    record = load_record(path)
    assert record.table == start
    assert record.claim is None
    solved = solve_auction(record.costs, record.table, silent)
    assert solved.table == solve_auction(costs, start, silent).table
    with pytest.raises(AllocationError, match="statistics alone"):
        check_record(path)


def forget_highest_price(arrays: Arrays) -> None:
    arrays["prices_RC"].flat[arrays["prices_RC"].argmax()] = 0.0


def raise_all_prices(arrays: Arrays) -> None:
    arrays["prices_RC"] += 1.0


def make_a_price_negative(arrays: Arrays) -> None:
    arrays["prices_RC"][0, 0] = -1.0


def swap_two_words(arrays: Arrays) -> None:
    for name in ("row_of_word_V", "column_of_word_V"):
        arrays[name][:2] = arrays[name][1::-1]


def put_two_words_in_one_cell(arrays: Arrays) -> None:
    for name in ("row_of_word_V", "column_of_word_V"):
        arrays[name][0] = arrays[name][1]


def drop_prices(arrays: Arrays) -> None:
    del arrays["prices_RC"]


def drop_counts(arrays: Arrays) -> None:
    del arrays["counts_V"]


def raise_a_count(arrays: Arrays) -> None:
    arrays["counts_V"] = arrays["counts_V"] + np.eye(NUM_WORDS)[0]


def cut_table(arrays: Arrays) -> None:
    arrays["row_of_word_V"] = arrays["row_of_word_V"][:-1]


def widen_numbers(arrays: Arrays) -> None:
    arrays["row_of_word_V"] = arrays["row_of_word_V"].astype(np.int64)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (forget_highest_price, "claims the lower bound"),
        (raise_all_prices, "claims the lower bound"),
        (make_a_price_negative, "proves nothing: prices"),
        (swap_two_words, "claims the objective"),
        (put_two_words_in_one_cell, "share the cell"),
        (drop_prices, "claims without prices"),
        (drop_counts, "counts_V is missing"),
        (cut_table, "_V has shape"),
        (widen_numbers, "expected .* and int32"),
    ],
)
def test_changed_arrays_are_noticed(
    path: Path, tamper: Callable[[Arrays], object], message: str
) -> None:
    change(path, tamper)
    with pytest.raises(AllocationError, match=message) as raised:
        check_record(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_changes_that_the_proof_does_not_depend_on_are_noticed_too(tmp_path: Path) -> None:
    costs, path = costs_of_all_kinds()["dense"], tmp_path / "record"
    save_record(path, costs, solve_auction(costs, random_start(costs), silent))
    change(path, nothing)
    check_record(path)
    change(path, raise_a_count)
    with pytest.raises(AllocationError, match="another SHA-256"):
        check_record(path)


@pytest.mark.parametrize("name", ["objective", "lower_bound"])
@pytest.mark.parametrize("factor", [1 - 1e-9, 1 + 1e-9, float("nan"), float("inf")])
def test_changed_claims_are_noticed(
    path: Path, solution: Solution, name: str, factor: float
) -> None:
    change(path, nothing, **{name: getattr(solution, name) * factor})
    with pytest.raises(AllocationError, match=f"claims the {name.replace('_', ' ')}"):
        check_record(path)


def test_a_claim_off_by_rounding_passes(path: Path, solution: Solution) -> None:
    change(path, nothing, objective=solution.objective * (1 + 1e-15))
    assert check_record(path).objective == solution.objective


@pytest.mark.parametrize("claims", [{"objective": "much"}, {"lower_bound": None}])
def test_a_claim_that_is_no_number_is_one_clear_line(path: Path, claims: dict[str, object]) -> None:
    change(path, nothing, **claims)
    with pytest.raises(AllocationError, match="cannot be read"):
        check_record(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_one_clear_line(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(AllocationError, match="cannot be read") as raised:
        load_record(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_one_of_another_kind_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(AllocationError, match="cannot be read"):
        load_record(tmp_path / "missing.safetensors")
    other = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3)}, other)
    with pytest.raises(AllocationError, match="of the format None"):
        load_record(other)


def test_what_cannot_be_written_leaves_the_old_file(
    path: Path, costs: CellCosts, solution: Solution, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AllocationError, match=r"cannot be written: .*No space left"):
        save_record(path, costs, solution)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_missing_folder_is_one_clear_line(
    tmp_path: Path, costs: CellCosts, solution: Solution
) -> None:
    with pytest.raises(AllocationError, match="cannot be written"):
        save_record(tmp_path / "missing" / "table.safetensors", costs, solution)


def test_costs_shared_out_over_ranks_are_refused(tmp_path: Path, solution: Solution) -> None:
    class Shared(CellCosts):
        def losses(self, words: Any, dtype: Any = np.float64) -> Any:
            raise NotImplementedError

    shared = Shared(np.ones(NUM_WORDS), NUM_ROWS, NUM_COLUMNS)
    with pytest.raises(AllocationError, match="Shared cannot be recorded"):
        save_record(tmp_path / "shared.safetensors", shared, solution)
