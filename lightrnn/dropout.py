"""Dropout with masks that depend on (seed, step, place, lane) alone: elastic and resumable.

The usual dropout draws from a generator's state, which depends on how many numbers this process
has drawn before: another number of processes gives other masks, and a resumed run has to restore
the state. Here a lane's mask is computed from a key of its own, so every process can make the masks
of just its lanes, and a resumed run has nothing to restore. On CPU it is faster than drawing.

Legend: T half-steps, B lanes, D features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_MASK_31 = (1 << 31) - 1
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def mix(number: Tensor) -> Tensor:
    """Scramble int64 numbers one to one, so that neighbours share no pattern."""
    number = (number ^ (number >> 33 & _MASK_31)) * (0xFF51AFD7ED558CCD - (1 << 64))
    number = (number ^ (number >> 33 & _MASK_31)) * (0xC4CEB9FE1A85EC53 - (1 << 64))
    return number ^ (number >> 33 & _MASK_31)


@dataclass(frozen=True)
class DropoutRates:
    """Probabilities by which numbers are dropped, by place.

    Attributes:
        inputs: of the vectors going in.
        hidden: of the states between layers.
        outputs: of the hidden states that predict.
        weights: of the recurrent matrices, the same for all lanes of a step (Merity et al., 2018).
        words: of a word's whole vector going in, wherever a lane reads it in a step (Gal and
            Ghahramani, 2016).
        variational: one mask for all half-steps of a lane in a step, instead of one for each.
    """

    inputs: float = 0.0
    hidden: float = 0.0
    outputs: float = 0.0
    weights: float = 0.0
    words: float = 0.0
    variational: bool = False


def dropout_keys(seed: int, step: int, lanes: range, device: torch.device) -> Tensor:
    """Return the key of one training step, then that of each lane in it, int64 [1 + B]."""
    start = mix(torch.full((), seed, dtype=torch.int64, device=device) + _GOLDEN)
    lane = torch.arange(lanes.start, lanes.stop, dtype=torch.int64, device=device)
    # The step's own key is that of a lane which does not exist.
    return mix(mix(start + step) + torch.cat([lane.new_tensor([-1]), lane]))


def keys_of_lanes(keys: Tensor, lanes: slice) -> Tensor:
    """Return the keys of a step, as `dropout_keys` makes them, for some of its lanes only."""
    return torch.cat((keys[:1], keys[1:][lanes]))


class LaneDropout(nn.Module):
    """Zero each element with probability `p` in training, by masks made from the lanes' keys.

    Args:
        p: probability, 0 <= p < 1; what remains is scaled by 1 / (1 - p).
        place: number of this module in the model; modules with different numbers differ in masks.
        variational: whether all half-steps share one mask.
    """

    def __init__(self, p: float, place: int, *, variational: bool = False) -> None:
        super().__init__()
        self.p = p
        self.place = place
        self.variational = variational

    def forward(self, x_TBD: Tensor, keys_B: Tensor | None) -> Tensor:
        """Return `x_TBD` with elements dropped; `keys_B` None draws from torch's generator."""
        if not self.training or self.p == 0.0:
            return x_TBD
        like = x_TBD[:1] if self.variational else x_TBD
        if keys_B is None:
            return x_TBD * nn.functional.dropout(torch.ones_like(like), self.p)
        return x_TBD * _scaled(self._keep(like, keys_B), self.p, x_TBD.dtype)

    def _keep(self, x_TBD: Tensor, keys_B: Tensor) -> Tensor:
        """Hash (key, half-step) with (key, two features) to 16 bits for each; compare with p."""
        num_steps, _, num_features = x_TBD.shape
        keys_B = mix(keys_B + self.place)
        index = torch.arange(num_steps + (num_features + 1) // 2, device=keys_B.device)
        numbers_BI = mix(keys_B[:, None] + index * _GOLDEN).to(torch.int32)
        step_TB1 = numbers_BI[:, :num_steps].t().unsqueeze(2)
        pair_1BP = numbers_BI[:, num_steps:].unsqueeze(0)
        bits = (step_TB1 ^ pair_1BP).mul_(-1640531535)
        bits.bitwise_xor_(bits >> 15)
        bits.mul_(-2048144777)
        return _kept(bits.view(torch.int16)[..., :num_features], self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}, variational={self.variational}"


class WordDropout(nn.Module):
    """Zero a word's whole vector with probability `p` in training, wherever a lane reads it.

    Args:
        p: probability, 0 <= p < 1; what remains is scaled by 1 / (1 - p).
        place: as in `LaneDropout`.
    """

    def __init__(self, p: float, place: int) -> None:
        super().__init__()
        self.p = p
        self.place = place

    def forward(self, x_TBD: Tensor, words_TB: Tensor, keys_B: Tensor | None) -> Tensor:
        """Return `x_TBD`, the vectors of `words_TB`, with those of some words dropped."""
        if not self.training or self.p == 0.0:
            return x_TBD
        if keys_B is None:
            keys_B = torch.randint(2**62, words_TB.shape[1:], device=words_TB.device)
        bits_TB = mix(mix(keys_B + self.place) + words_TB.long() * _GOLDEN).to(torch.int32)
        return x_TBD * _scaled(_kept(bits_TB, self.p), self.p, x_TBD.dtype).unsqueeze(2)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _kept(bits: Tensor, p: float) -> Tensor:
    """Return where random signed integers keep what is dropped with probability `p`."""
    least = torch.iinfo(bits.dtype).min
    return bits >= int(p * -2 * least) + least


def _scaled(kept: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    return torch.mul(kept, torch.tensor(1.0 / (1.0 - p), dtype=dtype))
