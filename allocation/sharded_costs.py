"""The costs of all words on rank 0, worked out by the ranks that own them.

Rank 0 asks and the other ranks serve, so that neither all sums nor all losses ever lie on one rank:
an answer holds a few words' losses, their best rows and columns, or one number a word.

Legend: V words, N some of the words, R rows, C columns, K lines a word.
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from allocation.candidates import BestLines, LossArray
from allocation.collectives import RemoteError
from allocation.communicators import Array, Communicator
from allocation.costs import WORDS_PER_BLOCK, CellCosts, FloatArray, Words
from allocation.errors import AllocationError
from allocation.exchange import shares_of_words
from lightrnn.errors import LightRNNError
from lightrnn.table import WordTable

WordArray: TypeAlias = npt.NDArray[np.int64]

_DTYPES = tuple(
    np.dtype(name) for name in ("uint8", "uint16", "int32", "int64", "float32", "float64")
)
_HEADER_SIZE = 4
"""Of an array: number of its type, of its dimensions, and up to two lengths."""


class _Request(IntEnum):
    """What rank 0 asks for."""

    CLOSE = 0
    LOSSES = 1
    CANDIDATES = 2
    LEAST_COSTS = 3
    COSTS_AT = 4


class ShardedCosts(CellCosts):
    """Costs of all words on rank 0, while every other rank serves its own words' costs.

    Made on every rank. Rank 0 then uses it in a `with` block, whose end releases the others from
    `serve`, also after an error.

    Args:
        local_costs: of this rank's share of the words, as `exchange` leaves it; on every rank with
            the same penalties, if any.
        counts_V: occurrences of all words.
        communicator: all ranks; it waits as long as rank 0 may be busy between two questions.

    Raises:
        AllocationError: this rank's costs are not of its share of the words.
    """

    def __init__(
        self, local_costs: CellCosts, counts_V: LossArray, communicator: Communicator
    ) -> None:
        super().__init__(counts_V, local_costs.num_rows, local_costs.num_columns)
        self.local_costs, self.communicator = local_costs, communicator
        self.shares = shares_of_words(self.num_words, communicator.world_size, "sharded")
        share = self.shares[communicator.rank]
        if local_costs.num_words != len(share):
            raise AllocationError(
                f"rank {communicator.rank} has the costs of {local_costs.num_words} words, "
                f"expected {len(share)}; exchange with mode sharded"
            )

    def __enter__(self) -> "ShardedCosts":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for rank in range(1, self.communicator.world_size):
            self._send(_Request.CLOSE, [], rank)

    def serve(self) -> None:
        """Answer rank 0 until it is done, on every other rank.

        Raises:
            Exception: what went wrong on this rank, after rank 0 was told and is done.
        """
        failure: Exception | None = None
        while True:
            request, arguments = self._receive(0)
            if request == _Request.CLOSE:
                break
            answer = self._attempt(_Request(request), arguments)
            if isinstance(answer, Exception):
                failure = failure or answer
                is_user_error = isinstance(answer, LightRNNError)
                message = f"{answer}".encode(errors="backslashreplace")
                self._send(-1 - is_user_error, [np.array(list(message), dtype=np.uint8)], 0)
            else:
                self._send(request, answer, 0)
        if failure is not None:
            raise failure

    def losses(
        self, words: Words, dtype: type[np.floating] = np.float64
    ) -> tuple[FloatArray, FloatArray]:
        is_single = np.array([dtype is np.float32], dtype=np.uint8)
        by_row, by_column = self._ask_for(words, _Request.LOSSES, is_single)
        return by_row, by_column

    def candidates(
        self, words: Words, num_lines: int, line_prices: tuple[LossArray, LossArray]
    ) -> tuple[BestLines, BestLines]:
        found = self._ask_for(words, _Request.CANDIDATES, np.array([num_lines]), *line_prices)
        return BestLines(*found[:3]), BestLines(*found[3:])

    def least_costs(self, prices_RC: LossArray) -> LossArray:
        return self._ask_for_all(_Request.LEAST_COSTS, lambda _: [prices_RC])

    def costs_at(self, table: WordTable) -> LossArray:
        self.check_table(table)
        cells = table.row_of_word, table.column_of_word
        return self._ask_for_all(
            _Request.COSTS_AT,
            lambda share: [lines[share.start :: share.step] for lines in cells],
        )

    def _ask_for(self, words: Words, request: _Request, *arguments: Array) -> list[Array]:
        """Return the answer's arrays for some words, [N, ...] each, put together from all ranks."""
        words_N = np.arange(self.num_words)[words]
        owners_N, world_size = words_N % self.communicator.world_size, len(self.shares)
        places = [np.flatnonzero(owners_N == rank) for rank in range(world_size)]
        # Rank 0 answers for no words, too: then it tells the shapes.
        asked = {
            rank: [words_N[places[rank]] // world_size, *arguments]
            for rank in range(world_size)
            if rank == 0 or len(places[rank])
        }
        answers = self._ask(request, asked)
        whole = [np.empty((len(words_N), *part.shape[1:]), part.dtype) for part in answers[0]]
        for rank, answer in answers.items():
            for array, part in zip(whole, answer, strict=True):
                array[places[rank]] = part
        return whole

    def _ask_for_all(
        self, request: _Request, arguments: Callable[[range], list[Array]]
    ) -> LossArray:
        """Return one number for every word, float64 [V]."""
        answers = self._ask(
            request, {rank: arguments(share) for rank, share in enumerate(self.shares)}
        )
        numbers_V = np.empty(self.num_words)
        for rank, (part,) in answers.items():
            share = self.shares[rank]
            numbers_V[share.start :: share.step] = part
        return numbers_V

    def _ask(
        self, request: _Request, arguments: dict[int, list[Array]]
    ) -> dict[int, Sequence[Array]]:
        """Return the answers of some ranks, rank 0 among them, to what each is asked."""
        others = [rank for rank in arguments if rank != 0]
        for rank in others:
            self._send(request, arguments[rank], rank)
        own = self._attempt(request, arguments[0])
        # All answers are taken before any error is raised: ranks wait until theirs is.
        received = {rank: self._receive(rank) for rank in others}
        for rank, (status, answer) in received.items():
            if status < 0:
                message = answer[0].tobytes().decode()
                if status == -2:
                    raise AllocationError(message)
                raise RemoteError(f"rank {rank} failed: {message}")
        if isinstance(own, Exception):
            raise own
        return {0: own} | {rank: answer for rank, (_, answer) in received.items()}

    def _attempt(
        self, request: _Request, arguments: Sequence[Array]
    ) -> Sequence[Array] | Exception:
        try:
            return _answer(self.local_costs, request, arguments)
        except Exception as error:
            return error

    def _send(self, label: int, arrays: Sequence[Array], destination: int) -> None:
        self.communicator.send(np.array([label, len(arrays)]), destination)
        for array in arrays:
            sizes = [*array.shape, 0, 0][: _HEADER_SIZE - 2]
            header = np.array([_DTYPES.index(array.dtype), array.ndim, *sizes])
            self.communicator.send(header, destination)
            self.communicator.send(array, destination)

    def _receive(self, source: int) -> tuple[int, list[Array]]:
        label = np.empty(2, dtype=np.int64)
        self.communicator.receive(label, source)
        arrays = []
        for _ in range(label[1]):
            header = np.empty(_HEADER_SIZE, dtype=np.int64)
            self.communicator.receive(header, source)
            kind, num_dimensions, *sizes = header.tolist()
            array: npt.NDArray[Any] = np.empty(sizes[:num_dimensions], _DTYPES[kind])
            self.communicator.receive(array, source)
            arrays.append(array)
        return int(label[0]), arrays


def _answer(costs: CellCosts, request: _Request, arguments: Sequence[Array]) -> Sequence[Array]:
    """Return what rank 0 asked of these costs; the first arguments are numbers of own words."""
    if request == _Request.LEAST_COSTS:
        return [costs.least_costs(arguments[0])]
    if request == _Request.COSTS_AT:
        rows, columns = arguments
        return [costs.costs_at(WordTable(rows, columns, costs.num_rows, costs.num_columns))]
    words_N = arguments[0]
    starts = range(0, max(1, len(words_N)), WORDS_PER_BLOCK)
    blocks = [words_N[start : start + WORDS_PER_BLOCK] for start in starts]
    answers: list[list[Array]]
    if request == _Request.LOSSES:
        dtype = np.float32 if arguments[1][0] else np.float64
        answers = [list(costs.losses(block, dtype)) for block in blocks]
    else:
        num_lines, line_prices = int(arguments[1][0]), (arguments[2], arguments[3])
        found = [costs.candidates(block, num_lines, line_prices) for block in blocks]
        answers = [
            [part for best in both for part in (best.lines_NK, best.losses_NK, best.tails_N)]
            for both in found
        ]
    return [np.concatenate(parts) for parts in zip(*answers, strict=True)]
