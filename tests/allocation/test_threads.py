"""Work done side by side on several threads."""

import pytest

from allocation.threads import side_by_side


@pytest.mark.parametrize("num_pieces", [0, 1, 7])
def test_each_piece_is_worked_on_once(num_pieces: int) -> None:
    done: list[int] = []
    side_by_side(done.append, range(num_pieces))
    assert sorted(done) == list(range(num_pieces))


@pytest.mark.parametrize("num_pieces", [1, 7])
def test_an_error_in_a_piece_is_raised(num_pieces: int) -> None:
    def fail(piece: int) -> None:
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"):
        side_by_side(fail, range(num_pieces))
