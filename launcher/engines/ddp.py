"""Every rank holds the whole model; gradients are averaged while they are computed."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from launcher.engines.engine import (
    loss_to_differentiate,
    model_tensors,
    optimizer_tensors,
    prepare_update,
    state_by_parameter,
)
from launcher.optimization import make_optimizer
from launcher.settings import TrainSettings
from lightrnn import LightRNN, WordLosses


class DDPEngine:
    """PyTorch's DistributedDataParallel and optimizers.

    Args:
        model: on this rank's device; its parameters become those of rank 0.
        settings: of optimisation.
        world_size: number of ranks.
    """

    def __init__(self, model: LightRNN, settings: TrainSettings, world_size: int) -> None:
        self._model = model
        self._world_size = world_size
        self._clip_norm = settings.clip_norm
        self._optimizer = make_optimizer(model.parameters(), settings)
        self._ddp = DistributedDataParallel(
            model, forward_sync_buffers=False, gradient_as_bucket_view=True
        )

    def forward(
        self, inputs_BT: Tensor, targets_BT: Tensor, state: Tensor, dropout_keys: Tensor
    ) -> WordLosses:
        """Return the summed losses of this rank's lanes."""
        losses = self._ddp(inputs_BT, targets_BT, state, dropout_keys)
        assert isinstance(losses, WordLosses)
        return losses

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Add the gradient of the sum of all ranks' `loss`."""
        with nullcontext() if last else self._ddp.no_sync():
            # DDP averages over ranks.
            loss_to_differentiate(loss, self._world_size).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> Tensor:
        """Clip, update unless the gradient is not finite, and forget the gradient."""
        norm = prepare_update(self._optimizer, self._model, rate, self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def rehearse(self, loss: Tensor) -> None:
        """Do what a step does, without effect."""
        self.backward(loss)
        self._optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and what the optimizer keeps; they are not copied."""
        return {**model_tensors(self._model), **optimizer_tensors(self._model, self._optimizer)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors of these names."""
        with torch.no_grad():
            for name, value in model_tensors(self._model).items():
                value.copy_(tensors[name])
        names = [name for name, _ in self._model.named_parameters()]
        kept = state_by_parameter(names, tensors)
        # Optimizers number the parameters in this order, and know which device each tensor needs.
        state = {number: kept[name] for number, name in enumerate(names) if kept[name]}
        content = self._optimizer.state_dict()
        self._optimizer.load_state_dict({**content, "state": state})

    def close(self) -> None:
        """Let go of the process group, which the reducer must not outlive."""
        del self._ddp
