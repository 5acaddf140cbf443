"""What the loop needs of whatever shares a step out over the processes."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from lightrnn import LightRNN, WordLosses


class Engine(Protocol):
    """Computes a step on all ranks: each calls the same methods in the same order.

    However an engine shares out what belongs to a parameter, it gives and takes it whole and by
    the parameter's name, so that a run may change its engine and its number of processes.
    """

    def forward(
        self, inputs_BT: Tensor, targets_BT: Tensor, state: Tensor, dropout_keys: Tensor
    ) -> WordLosses:
        """Return the summed losses of this rank's lanes, as `LightRNN.forward` does."""
        ...

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Add the gradient of the sum of all ranks' `loss`, scalar.

        Where the loss of any rank is not finite, the gradient is not finite on any rank.

        Args:
            loss: of one part of the step.
            last: whether `step` comes next, not another part.
        """
        ...

    def step(self, rate: float) -> Tensor:
        """Update the parameters by learning rate `rate` and forget the gradient.

        A gradient that is not finite leaves parameters and optimizer as they are.

        Returns:
            The norm of the gradient before it was clipped, scalar; the same on every rank.
        """
        ...

    def rehearse(self, loss: Tensor) -> None:
        """Do what a step with this loss does, without effect."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters as `model.NAME` and what the optimizer keeps as `optimizer.NAME.KEY`.

        Called by all ranks. Some are the tensors in use, not copies.
        """
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors of these names on the CPU, those of the optimizer as far as given."""
        ...

    def close(self) -> None:
        """Let go of the process group, which must not be left before."""
        ...


def loss_to_differentiate(loss: Tensor, scale: float) -> Tensor:
    """Return `loss * scale`, the gradient of which is not a number where the loss is not finite.

    Sums over ranks then tell every rank, without a message of their own.
    """
    return loss * torch.where(loss.detach().isfinite(), scale, torch.nan)


def prepare_update(
    optimizer: torch.optim.Optimizer, model: nn.Module, rate: float, clip_norm: float
) -> Tensor:
    """Tell an optimizer how far its next step goes; return the norm of the gradient, scalar.

    The optimizer clips while it reads the gradient, and leaves everything as it is where the
    gradient is not finite; nothing waits for the device.

    Args:
        optimizer: a fused one.
        model: with gradients.
        rate: learning rate.
        clip_norm: largest norm of the gradient; 0 for no bound.
    """
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    for group in optimizer.param_groups:
        group["lr"] = rate
    # What gradients are divided by, and whether to leave the step out: as `torch.amp` tells it.
    optimizer.grad_scale = (norm / clip_norm).clamp(min=1.0) if clip_norm else None  # type: ignore[attr-defined]
    optimizer.found_inf = norm.isfinite().logical_not().float()  # type: ignore[attr-defined]
    return norm


def model_tensors(model: LightRNN) -> dict[str, Tensor]:
    """Return the parameters by their names in a checkpoint; they are not copied."""
    return {f"model.{name}": value for name, value in model.state_dict().items()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimizer keeps of each parameter by its name in a checkpoint."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def state_by_parameter(
    names: Iterable[str], tensors: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return what `tensors` has of the optimizer for each of the parameters `names`."""
    kept: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            parameter_name, _, key = name.removeprefix("optimizer.").rpartition(".")
            kept[parameter_name][key] = tensor
    return kept
