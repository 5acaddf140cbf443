"""Which bonuses are tried, and which table is taken."""

import pytest

from allocation.trust_region import TrustRegion, Try, search


def attempts(region: TrustRegion, before: float | None, losses: dict[float, float | None]):
    """Search with given losses by bonus; return the bonuses tried and the one taken."""

    def attempt(bonus: float) -> Try:
        return Try(bonus, 0.0, losses[bonus], 0.0, 0.0, 0.0, 0, 0.0)

    tries, taken = search(region, before, attempt)
    bonuses = [one.stay_bonus for one in tries]
    return bonuses, None if taken is None else bonuses[taken]


@pytest.mark.parametrize(
    ("start", "losses", "tried", "taken"),
    [
        # The first that helps is followed by one more, which may be better still.
        (0.2, {0.2: 4.9, 0.4: 4.95}, [0.2, 0.4], 0.2),
        (0.2, {0.2: 4.9, 0.4: 4.8, 0.8: 4.85}, [0.2, 0.4, 0.8], 0.4),
        # Nothing is taken before something helps.
        (0.0, {0.0: 6.0, 0.1: 5.5, 0.2: 4.9, 0.4: 5.0}, [0.0, 0.1, 0.2, 0.4], 0.2),
        (0.2, {0.2: 6.0, 0.4: 5.5, 0.8: 5.2, 1.6: 5.1}, [0.2, 0.4, 0.8, 1.6], None),
        # Equal is tolerated, and no reason to go on.
        (0.2, {0.2: 5.0, 0.4: 5.0}, [0.2, 0.4], 0.2),
        (0.2, {0.2: float("nan"), 0.4: 4.9, 0.8: 4.9}, [0.2, 0.4, 0.8], 0.4),
    ],
)
def test_search(start: float, losses: dict, tried: list[float], taken: float | None) -> None:
    assert attempts(TrustRegion(stay_bonus=start, max_tries=4), 5.0, losses) == (tried, taken)


def test_a_rise_within_the_tolerance_is_taken() -> None:
    region = TrustRegion(tolerance=0.5, max_tries=2)
    assert attempts(region, 5.0, {0.0: 5.4, 0.1: 5.3}) == ([0.0, 0.1], 0.1)
    assert attempts(region, 5.0, {0.0: 5.6, 0.1: 5.6}) == ([0.0, 0.1], None)


def test_without_tries_the_first_table_is_taken_unmeasured() -> None:
    assert attempts(TrustRegion(stay_bonus=0.3), None, {0.3: None}) == ([0.3], 0.3)
