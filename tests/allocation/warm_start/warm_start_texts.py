"""Texts for the tests of warm starts."""

import numpy as np
import numpy.typing as npt
import torch.distributed as dist

from allocation.communicators import TorchCommunicator

Text = npt.NDArray[np.int32]


class ArrayTokens:
    """A text in memory."""

    END_OF_LINE = 0

    def __init__(self, text: npt.ArrayLike) -> None:
        self.text = np.asarray(text, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.text)

    def read(self, start: int, stop: int) -> Text:
        whole = np.concatenate([np.array([self.END_OF_LINE], dtype=np.int32), self.text])
        return whole[start + 1 : stop + 1]


def zipf_text(num_words: int, num_tokens: int, seed: int) -> Text:
    """Independent words by Zipf's law; the last ones hardly ever occur."""
    shares = 1 / np.arange(1, num_words + 1)
    random = np.random.default_rng(seed)
    return random.choice(num_words, num_tokens, p=shares / shares.sum()).astype(np.int32)


def text_of_kinds(num_kinds: int, words_per_kind: int, num_tokens: int, seed: int) -> Text:
    """Each word is of a kind (`word % num_kinds`), and the next kind hangs on this one alone."""
    random = np.random.default_rng(seed)
    follows = random.dirichlet(np.full(num_kinds, 0.2), size=num_kinds)
    kinds = [0]
    for _ in range(num_tokens - 1):
        kinds.append(int(random.choice(num_kinds, p=follows[kinds[-1]])))
    members = random.integers(0, words_per_kind, size=num_tokens)
    return (np.array(kinds) + num_kinds * members).astype(np.int32)


def the_communicator() -> TorchCommunicator:
    assert dist.group.WORLD is not None
    return TorchCommunicator(dist.group.WORLD)
