"""Reading ahead: what the next steps need is made by a thread while this step runs."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Prefetched(Generic[Item]):
    """The items of an iterable, in order, a few of them made ahead by a thread of its own.

    An exception of the iterable is raised, as it is, where its item would have come. Use as a
    context manager: when it is left, for whatever reason, the thread has ended.

    Args:
        items: iterated in the thread, which nothing else may do meanwhile.
        num_ahead: so many items at most wait to be taken.
    """

    def __init__(self, items: Iterable[Item], num_ahead: int = 2) -> None:
        self._items = items
        self._num_ahead = num_ahead
        self._ready: deque[Item] = deque()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._ended = False
        self._closed = False
        # A process that is ended at once, by a second SIGINT, waits for no thread.
        self._thread = threading.Thread(target=self._make_items, name="prefetch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        """Return the next item, waiting for it where it is not there yet."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                self._changed.notify_all()
                return self._ready.popleft()
        if self._failure is not None:
            raise self._failure
        raise StopIteration

    def _make_items(self) -> None:
        try:
            for item in self._items:
                if not self._hand_over(item):
                    return
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _hand_over(self, item: Item) -> bool:
        """Put an item where it can be taken, once there is room; return whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._num_ahead)
            if not self._closed:
                self._ready.append(item)
                self._changed.notify_all()
            return not self._closed
