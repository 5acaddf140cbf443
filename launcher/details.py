"""What a perplexity is made of: frequent and rare words, rows and columns, and chance.

Legend: N words of a text, V words of the vocabulary.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from data_shards import Batches, Vocabulary
from launcher.batches import all_batches
from launcher.evaluation import Autocast
from launcher.processes import Processes
from launcher.run_dir import RunError
from lightrnn import LightRNN, perplexity_of, word_losses
from lightrnn.model import NO_WORD

BLOCK_WORDS = 100
"""Words of a block at least: about as far as a text hangs together."""

MOST_BLOCKS = 2000
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WordLosses:
    """What every word of a text cost, in the order in which the lanes read them.

    Attributes:
        words_N: ids, int64.
        row_nll_N: -log P of each word's row, nats.
        column_nll_N: -log P of its column once the row is known, nats.
    """

    words_N: npt.NDArray[np.int64]
    row_nll_N: FloatArray
    column_nll_N: FloatArray

    @property
    def nll_N(self) -> FloatArray:
        """-log P of each word, nats."""
        return self.row_nll_N + self.column_nll_N

    def where(self, chosen_N: npt.NDArray[np.bool_]) -> "WordLosses":
        """Return those of some words."""
        return WordLosses(
            self.words_N[chosen_N], self.row_nll_N[chosen_N], self.column_nll_N[chosen_N]
        )


@dataclass(frozen=True)
class Band:
    """Words of like frequency.

    Attributes:
        first: rank of its most frequent word in the training text, from 1.
        last: rank of its rarest word.
        tokens: how often they occur in the text.
        perplexity: of these words.
        row_nll: mean -log P of the row, nats.
        column_nll: mean -log P of the column, nats.
        loss_share: of the whole text's loss.
    """

    first: int
    last: int
    tokens: int
    perplexity: float
    row_nll: float
    column_nll: float
    loss_share: float


@dataclass(frozen=True)
class Details:
    """What a perplexity is made of.

    Attributes:
        bands: by decades of frequency rank; bands without words are left out.
        interval: of the perplexity, for texts of this length and kind, by bootstrap over blocks.
        confidence: of the interval.
        unknown_share: share of the words that are the unknown word.
        known_perplexity: of all other words.
    """

    bands: tuple[Band, ...]
    interval: tuple[float, float]
    confidence: float
    unknown_share: float
    known_perplexity: float


def losses_by_word(
    model: LightRNN, batches: Batches, processes: Processes, autocast: Autocast
) -> WordLosses:
    """Return what every word of a split costs, on rank 0; of no words elsewhere."""
    lanes: list[list[npt.NDArray[np.float64]]] = [[] for _ in batches.lanes]
    with autocast():
        losses = word_losses(
            model,
            all_batches(batches, processes.device),
            carry_state=batches.carries_state,
        )
        for targets_BT, nll_2BT in losses:
            rows = torch.cat([targets_BT[None].double(), nll_2BT.double()]).cpu().numpy()
            for number, lane in enumerate(lanes):
                lane.append(rows[:, number][:, rows[0, number] != NO_WORD])
    own = np.concatenate([np.zeros((3, 0)), *(part for lane in lanes for part in lane)], axis=1)
    whole = _gathered(torch.from_numpy(own), processes).numpy()
    return WordLosses(whole[0].astype(np.int64), whole[1], whole[2])


def _gathered(own_3N: torch.Tensor, processes: Processes) -> torch.Tensor:
    """Return the columns of all ranks in the order of ranks, on rank 0; none elsewhere."""
    sizes = torch.zeros(processes.world_size, dtype=torch.int64)
    sizes[processes.rank] = own_3N.shape[1]
    dist.all_reduce(sizes, group=processes.group)
    padded = own_3N.new_zeros(3, int(sizes.max()))
    padded[:, : own_3N.shape[1]] = own_3N
    parts = [torch.empty_like(padded) for _ in sizes] if processes.is_root else None
    dist.gather(padded, parts, group=processes.group)
    if parts is None:
        return own_3N[:, :0]
    return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)


def details_of(losses: WordLosses, vocabulary: Vocabulary) -> Details:
    """Return what the perplexity of a text is made of."""
    unknown_N = losses.words_N == vocabulary.unk_id
    known = losses.where(~unknown_N)
    return Details(
        bands=tuple(_bands(losses, np.asarray(vocabulary.counts))),
        interval=bootstrap_interval(losses.nll_N),
        confidence=CONFIDENCE,
        unknown_share=float(unknown_N.mean()),
        known_perplexity=perplexity_of(float(known.nll_N.mean())) if len(known.words_N) else 1.0,
    )


def _bands(losses: WordLosses, counts_V: npt.NDArray[np.int64]) -> Iterator[Band]:
    rank_of_word_V = np.empty(len(counts_V), dtype=np.int64)
    rank_of_word_V[np.argsort(-counts_V.astype(np.int64), kind="stable")] = np.arange(
        1, len(counts_V) + 1
    )
    ranks_N = rank_of_word_V[losses.words_N]
    first = 1
    while first <= len(counts_V):
        last = min(10 * first if first == 1 else 10 * (first - 1), len(counts_V))
        band = losses.where((ranks_N >= first) & (ranks_N <= last))
        if len(band.words_N):
            yield Band(
                first=first,
                last=last,
                tokens=len(band.words_N),
                perplexity=perplexity_of(float(band.nll_N.mean())),
                row_nll=float(band.row_nll_N.mean()),
                column_nll=float(band.column_nll_N.mean()),
                loss_share=float(band.nll_N.sum() / losses.nll_N.sum()),
            )
        first = last + 1


def bootstrap_interval(nll_N: FloatArray, seed: int = 0) -> tuple[float, float]:
    """Return the middle `CONFIDENCE` of the perplexities of texts drawn anew, block by block.

    Blocks of consecutive words are drawn with replacement (Kuensch, 1989), since the losses of
    neighbouring words go together.

    Args:
        nll_N: of each word in the text's order, nats, at least one.
        seed: of the drawing.
    """
    block = max(BLOCK_WORDS, -(-len(nll_N) // MOST_BLOCKS))
    starts = np.arange(0, len(nll_N), block)
    nll_K = np.add.reduceat(nll_N, starts)
    words_K = np.diff(np.append(starts, len(nll_N)))
    drawn = np.random.default_rng(seed).integers(len(starts), size=(NUM_RESAMPLES, len(starts)))
    means = nll_K[drawn].sum(1) / words_K[drawn].sum(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return perplexity_of(float(low)), perplexity_of(float(high))


def describe(details: Details) -> str:
    """Return a table of the bands for people to read."""
    lines = [f"{'frequency rank':>18} {'tokens':>10} {'perplexity':>11} {'row':>7} {'column':>7}"]
    lines[0] += f" {'of loss':>8}"
    lines += [
        f"{f'{band.first} to {band.last}':>18} {band.tokens:>10} {band.perplexity:>11.1f} "
        f"{band.row_nll:>7.3f} {band.column_nll:>7.3f} {band.loss_share:>8.1%}"
        for band in details.bands
    ]
    return "\n".join(lines) + "\n"


def write_words(path: Path, losses: WordLosses, words: Sequence[str]) -> None:
    """Write a line a word, fields parted by tabs: word, log P, that of its row, of its column.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write("word\tlog_probability\trow\tcolumn\n")
            for word, row, column in zip(
                losses.words_N.tolist(),
                losses.row_nll_N.tolist(),
                losses.column_nll_N.tolist(),
                strict=True,
            ):
                file.write(f"{words[word]}\t{-row - column:.6f}\t{-row:.6f}\t{-column:.6f}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror}), expected a file in a folder that there "
            "is; change --words"
        ) from error
