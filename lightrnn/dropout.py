"""Dropout with masks that depend on (seed, step, place, lane) alone: elastic and resumable.

The usual dropout draws from a generator's state, which depends on how many numbers this process
has drawn before: another number of processes gives other masks, and a resumed run has to restore
the state. Here a lane's mask is computed from a key of its own, so every process can make the masks
of just its lanes, and a resumed run has nothing to restore. On CPU it is faster than drawing.

Legend: T half-steps, B lanes, D features.
"""

import torch
from torch import Tensor, nn

_MASK_31 = (1 << 31) - 1
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def mix(number: Tensor) -> Tensor:
    """Scramble int64 numbers one to one, so that neighbours share no pattern."""
    number = (number ^ (number >> 33 & _MASK_31)) * (0xFF51AFD7ED558CCD - (1 << 64))
    number = (number ^ (number >> 33 & _MASK_31)) * (0xC4CEB9FE1A85EC53 - (1 << 64))
    return number ^ (number >> 33 & _MASK_31)


def lane_keys(seed: int, step: int, lanes: range, device: torch.device) -> Tensor:
    """Return the key of each lane for one training step, int64 [B]."""
    start = mix(torch.tensor(seed, dtype=torch.int64, device=device) + _GOLDEN)
    lane = torch.arange(lanes.start, lanes.stop, dtype=torch.int64, device=device)
    return mix(mix(start + step) + lane)


class LaneDropout(nn.Module):
    """Zero each element with probability `p` in training, by masks made from the lanes' keys.

    Args:
        p: probability, 0 <= p < 1; what remains is scaled by 1 / (1 - p).
        place: number of this module in the model; modules with different numbers differ in masks.
    """

    def __init__(self, p: float, place: int) -> None:
        super().__init__()
        self.p = p
        self.place = place

    def forward(self, x_TBD: Tensor, keys_B: Tensor | None) -> Tensor:
        """Return `x_TBD` with elements dropped; `keys_B` None draws from torch's generator."""
        if not self.training or self.p == 0.0:
            return x_TBD
        if keys_B is None:
            return nn.functional.dropout(x_TBD, self.p)
        return x_TBD * self._keep(x_TBD, keys_B).to(x_TBD.dtype).mul_(1.0 / (1.0 - self.p))

    def _keep(self, x_TBD: Tensor, keys_B: Tensor) -> Tensor:
        """Hash (key, half-step) with (key, feature) to 32 bits an element; compare with p."""
        num_steps, _, num_features = x_TBD.shape
        keys_B = mix(keys_B + self.place)
        index = torch.arange(num_steps + num_features, device=keys_B.device)
        numbers_BI = mix(keys_B[:, None] + index * _GOLDEN).to(torch.int32)
        step_TB1 = numbers_BI[:, :num_steps].t().unsqueeze(2)
        feature_1BD = numbers_BI[:, num_steps:].unsqueeze(0)
        bits = step_TB1 ^ feature_1BD
        bits.mul_(-1640531535)
        bits.bitwise_xor_(bits >> 15)
        bits.mul_(-2048144777)
        return bits >= int(self.p * 2**32) - 2**31

    def extra_repr(self) -> str:
        return f"p={self.p}"
