"""Simulated statistics of a trained model at any vocabulary size, for benchmarks of the solvers.

Counts follow the law of Zipf and Mandelbrot. Words come in clusters; a word's mean hidden states,
one before its row and one before its column, lie around those of its cluster. The output vectors
are trained for some hundred steps on the softmax losses of the starting table, so that losses look
like those of a model after its first epochs.

    python -m benchmarks.simulated --vocab-size 10000 --output DIR

Legend: V words, R rows, C columns, L rows or columns, H hidden, G clusters, N some words.
"""

import argparse
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from allocation.costs import FactoredCosts
from lightrnn.table import WordTable, default_shape

SingleArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]

NUM_TOKENS = {10_000: 929_589, 136_912: 57_000_000, 793_471: 799_000_000}
"""Training tokens of corpora with such vocabularies: Penn Treebank, German Wikipedia, 1B words."""

TOKENS_PER_WORD = 1000
"""For all other vocabularies."""

# Distances in the space of hidden states, in units of their noise from occurrence to occurrence.
CENTRE_SPREAD, CLUSTER_SPREAD, SHARED_SPREAD, OWN_SPREAD = 1.2, 1.2, 0.4, 0.6
OCCURRENCE_NOISE = 2.5

WORDS_PER_BLOCK = 1 << 14
WORDS_PER_STEP = 2048
LEARNING_RATE = 0.05


def zipf_counts(num_words: int, num_tokens: int) -> DoubleArray:
    """Return whole counts of about `num_tokens` in all, falling with the rank, float64 [V]."""
    shares = 1.0 / (np.arange(num_words) + 3.7)
    least = 3 if num_tokens >= 5 * TOKENS_PER_WORD * TOKENS_PER_WORD else 1
    counts: DoubleArray = np.maximum(least, np.round(shares / shares.sum() * num_tokens))
    return counts


def zipf_text(num_words: int, num_tokens: int, seed: int) -> npt.NDArray[np.int32]:
    """Return independent words by Zipf's law, the most frequent one with the least id, [tokens]."""
    ends = np.cumsum(1 / np.arange(1, num_words + 1))
    draws = np.random.default_rng(seed).random(num_tokens) * ends[-1]
    return np.searchsorted(ends, draws).astype(np.int32)


def simulate(
    num_words: int,
    hidden_size: int = 200,
    *,
    table: WordTable | None = None,
    steps: int = 300,
    seed: int = 0,
    folder: Path | None = None,
    with_normalizers: bool = True,
) -> tuple[FactoredCosts, WordTable]:
    """Simulate the statistics of a model that was trained on a table.

    Args:
        num_words: V; rows and columns are as few as hold them.
        hidden_size: H.
        table: what the output vectors are trained for; without it a random table. With the table of
            a solver it is a later reallocation, where the start is good already. The words' hidden
            states are the same whatever the table.
        steps: of training the output vectors.
        seed: decides everything.
        folder: what is simulated is written there, for `load_simulated`; the two arrays of
            features, V x H each, then stay on disk.
        with_normalizers: whether the words' constants are worked out, which takes the most time and
            is of no use where they are added up anew; else they are 0.

    Returns:
        The costs, and the table as it is before the reallocation.
    """
    counts_V = zipf_counts(num_words, NUM_TOKENS.get(num_words, TOKENS_PER_WORD * num_words))
    table = table or WordTable.random(num_words, *default_shape(num_words), seed=seed)
    features = _features(counts_V, hidden_size, table.num_rows, seed, folder)
    sides = [
        _train_outputs(
            features[side], counts_V, places, num_places, steps, [seed, side], with_normalizers
        )
        for side, (places, num_places) in enumerate(
            [(table.row_of_word, table.num_rows), (table.column_of_word, table.num_columns)]
        )
    ]
    vectors, biases, constants = zip(*sides, strict=True)
    if folder is not None:
        for side, name in enumerate(("row", "column")):
            np.savez(
                folder / f"{name}s.npz",
                vectors=vectors[side],
                biases=biases[side],
                constants=constants[side],
            )
        np.save(folder / "counts.npy", counts_V)
        table.save(folder / "table.arrow")
    return FactoredCosts(features, vectors, biases, constants, counts_V), table


def load_simulated(folder: Path) -> tuple[FactoredCosts, WordTable]:
    """Return what `simulate` wrote; the features stay on disk, memory-mapped."""
    factors = [np.load(folder / f"{name}s.npz") for name in ("row", "column")]
    vectors, biases, constants = (
        (factors[0][name], factors[1][name]) for name in ("vectors", "biases", "constants")
    )
    paths = [folder / f"{name}_features.npy" for name in ("row", "column")]
    features = (np.load(paths[0], mmap_mode="r"), np.load(paths[1], mmap_mode="r"))
    costs = FactoredCosts(features, vectors, biases, constants, np.load(folder / "counts.npy"))
    return costs, WordTable.load(folder / "table.arrow")


def _features(
    counts_V: DoubleArray, hidden_size: int, num_rows: int, seed: int, folder: Path | None
) -> tuple[SingleArray, SingleArray]:
    """Return the words' summed hidden states before row and before column, each [V, H]."""
    num_words = len(counts_V)
    random = np.random.default_rng([seed, 0])
    num_clusters = max(50, 2 * num_rows)
    sizes = (np.arange(num_clusters) + 6.0) ** -0.7
    cluster_of_word = random.choice(num_clusters, size=num_words, p=sizes / sizes.sum())
    shape = num_words, hidden_size
    scale = OCCURRENCE_NOISE / math.sqrt(hidden_size)
    centres_2GH = random.standard_normal((2, num_clusters, hidden_size), dtype=np.float32)
    centres_2GH *= CLUSTER_SPREAD * scale
    centres_2GH += random.standard_normal((2, 1, hidden_size)) * CENTRE_SPREAD * scale
    both = tuple(
        np.empty(shape, dtype=np.float32)
        if folder is None
        else np.lib.format.open_memmap(
            folder / f"{name}_features.npy", mode="w+", dtype=np.float32, shape=shape
        )
        for name in ("row", "column")
    )

    def fill(start: int) -> None:
        words = slice(start, min(start + WORDS_PER_BLOCK, num_words))
        counts_N1 = counts_V[words, None].astype(np.float32)
        # A block's numbers are its own, so that threads may take the blocks in any order.
        random = np.random.default_rng([seed, 1, start])
        size = len(counts_N1), hidden_size
        shared_NH = random.standard_normal(size, dtype=np.float32) * SHARED_SPREAD
        # What a word is by itself, and the error of a mean over so many occurrences.
        spread_N1 = np.sqrt(OWN_SPREAD**2 + 1.0 / counts_N1)
        for side, features in enumerate(both):
            states_NH = random.standard_normal(size, dtype=np.float32)
            states_NH *= spread_N1
            states_NH += shared_NH
            states_NH *= scale
            states_NH += centres_2GH[side, cluster_of_word[words]]
            np.multiply(states_NH, counts_N1, out=features[words])

    _over_blocks(fill, num_words)
    return both[0], both[1]


def _train_outputs(
    features_VH: SingleArray,
    counts_V: DoubleArray,
    place_of_word: npt.NDArray[np.int32],
    num_places: int,
    steps: int,
    seed: list[int],
    with_normalizers: bool,
) -> tuple[SingleArray, SingleArray, DoubleArray]:
    """Train output vectors [L, H] and biases [L]; return them and the words' constants [V]."""
    num_words, hidden_size = features_VH.shape
    random = np.random.default_rng([*seed, 2])
    generator = torch.Generator().manual_seed(int(random.integers(1 << 62)))
    noise = OCCURRENCE_NOISE / math.sqrt(hidden_size)
    head = nn.Linear(hidden_size, num_places)
    nn.init.normal_(head.weight, std=0.05, generator=generator)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    upto_V = np.cumsum(counts_V)

    def states(words: npt.NDArray[np.int64] | slice) -> Tensor:
        means_NH = features_VH[words] / counts_V[words, None].astype(np.float32)
        return torch.from_numpy(means_NH)

    for _ in range(steps):
        words = np.searchsorted(upto_V, random.uniform(0, upto_V[-1], size=WORDS_PER_STEP))
        words = np.sort(np.minimum(words, num_words - 1))
        hidden_NH = states(words)
        hidden_NH += noise * torch.randn(hidden_NH.shape, generator=generator)
        places = torch.from_numpy(place_of_word[words]).long()
        loss = nn.functional.cross_entropy(head(hidden_NH), places)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()

    constants_V = np.zeros(num_words)

    @torch.no_grad()
    def add_up_normalizers(start: int) -> None:
        words = slice(start, min(start + WORDS_PER_BLOCK, num_words))
        hidden_NH = states(words)
        seed_of_block = int(np.random.default_rng([*seed, 3, start]).integers(1 << 62))
        random = torch.Generator().manual_seed(seed_of_block)
        deviation_NH = noise * torch.randn(hidden_NH.shape, generator=random)
        # Two opposite deviations: their mean is never below the value at the mean state, as it is
        # for the occurrences that the sums stand for (the log-normaliser is convex).
        log_total_N = sum(
            torch.logsumexp(head(hidden_NH + sign * deviation_NH), dim=1) for sign in (1.0, -1.0)
        )
        assert isinstance(log_total_N, Tensor)
        constants_V[words] = counts_V[words] * log_total_N.double().numpy() / 2

    if with_normalizers:
        _over_blocks(add_up_normalizers, num_words)
    return head.weight.detach().numpy(), head.bias.detach().numpy(), constants_V


def _over_blocks(work: Callable[[int], None], num_words: int) -> None:
    """Do the work for each block of words, given its first word, on a thread for each core."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(work, range(0, num_words, WORDS_PER_BLOCK)))


def main() -> None:
    """Write simulated statistics to a folder, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--hidden-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--second", type=Path, help="a table (.arrow) that the model was trained on"
    )
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    costs, table = simulate(
        given.vocab_size,
        given.hidden_size,
        table=WordTable.load(given.second) if given.second else None,
        seed=given.seed,
        folder=given.output,
    )
    tokens = costs.counts_V.sum()
    print(
        f"{given.output}: {costs.num_words} words, {tokens:.0f} tokens, "
        f"{costs.objective(table) / tokens:.4f} nats a token"
    )


if __name__ == "__main__":
    main()
