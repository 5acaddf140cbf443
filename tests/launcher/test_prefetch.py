"""Reading ahead in a thread: order, bounds, errors, and the thread's end."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from data_shards import CorpusError
from launcher.prefetch import Prefetched

SECONDS = 30
"""Longer than any of this takes."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def test_items_come_in_order_and_end() -> None:
    with Prefetched(range(50)) as prefetched:
        assert list(prefetched) == list(range(50))
        assert list(prefetched) == []


def test_items_are_made_ahead_but_not_more_than_wanted() -> None:
    """The third is begun, to wait for room; the fourth is not."""
    begun: list[int] = []
    third = threading.Event()

    def items() -> Iterator[int]:
        for number in itertools.count(1):
            begun.append(number)
            if number == 3:
                third.set()
            yield number

    with Prefetched(items(), num_ahead=2) as prefetched:
        assert third.wait(SECONDS)
        assert begun == [1, 2, 3]
        assert next(prefetched) == 1
    assert begun in ([1, 2, 3], [1, 2, 3, 4])


def test_an_error_comes_as_it_is_after_the_items_before_it() -> None:
    error = CorpusError("the shard is gone")

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    with Prefetched(items()) as prefetched:
        assert [next(prefetched), next(prefetched)] == [1, 2]
        for _ in range(2):
            with pytest.raises(CorpusError) as caught:
                next(prefetched)
            assert caught.value is error


def test_an_error_of_the_one_who_reads_ends_the_thread() -> None:
    with pytest.raises(ZeroDivisionError), Prefetched(itertools.count()) as prefetched:
        _ = 1 // next(prefetched)


def test_left_while_the_thread_waits_for_room() -> None:
    full = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        full.set()
        yield 2

    with Prefetched(items(), num_ahead=1):
        assert full.wait(SECONDS)


def test_left_while_an_item_is_made() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        begun.set()
        assert go_on.wait(SECONDS)
        yield 1

    timer = threading.Timer(0.05, go_on.set)
    with Prefetched(items()):
        assert begun.wait(SECONDS)
        timer.start()
    timer.join()
    assert go_on.is_set()


def test_items_are_made_in_a_thread_of_their_own() -> None:
    with Prefetched(threading.current_thread() for _ in range(3)) as prefetched:
        threads = set(prefetched)
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()
