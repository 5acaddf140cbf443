"""DeepSpeed computes the steps: ZeRO shares gradients and optimizer out over the ranks."""

import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from launcher.engines.engine import (
    loss_to_differentiate,
    model_tensors,
    optimizer_tensors,
    prepare_update,
    state_by_parameter,
)
from launcher.optimization import make_optimizer, wants_bfloat16
from launcher.processes import Processes
from launcher.settings import Settings, SettingsError
from lightrnn import LightRNN, WordLosses

_DECIDED_ELSEWHERE = {
    "train_batch_size": "data.num_lanes",
    "train_micro_batch_size_per_gpu": "data.num_lanes",
    "gradient_accumulation_steps": "train.accumulate_steps",
    "optimizer": "train.optimizer",
    "scheduler": "train.schedule",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "amp": "train.precision",
    "data_types": "train.precision",
    "sparse_gradients": "train.engine",
    "tensor_parallel": "train.engine",
    "checkpoint": "checkpoint.every_steps",
    "tensorboard": "metrics",
    "wandb": "metrics.wandb_project",
}
"""Keys of a user's file that no value of fits, and the setting that has the say instead."""


def check_deepspeed(settings: Settings) -> None:
    """Raise `SettingsError` where DeepSpeed is not installed or its settings contradict ours."""
    if importlib.util.find_spec("deepspeed") is None:
        raise SettingsError(
            "train.engine=deepspeed needs the package deepspeed; install lightrnn[deepspeed] or "
            "set train.engine=ddp"
        )
    # Neither precision nor the model's size makes a difference to what a user's file may hold.
    deepspeed_settings(settings, bfloat16=False, num_parameters=1)


def deepspeed_settings(
    settings: Settings, *, bfloat16: bool, num_parameters: int
) -> dict[str, Any]:
    """Return DeepSpeed's settings: made from ours, with what a user's file adds.

    Raises:
        SettingsError: the file cannot be read, or contradicts a setting.
    """
    made: dict[str, Any] = {
        # Lanes and words make our batch; DeepSpeed only wants to hear a number.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.train.clip_norm,
        "zero_optimization": {"stage": settings.deepspeed.zero_stage},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {
            "enabled": bfloat16,
            "dtype": "bfloat16",
            # Gradients are added up in float32, as elsewhere.
            "lower_precision_safe_modules": [],
        },
    }
    suggested = {
        # Buffers of this size are made whether they are needed or not.
        "zero_optimization": {
            "reduce_bucket_size": num_parameters,
            "allgather_bucket_size": num_parameters,
        },
        "steps_per_print": None,
    }
    if not settings.deepspeed.config:
        return _merged(suggested, made)
    path = Path(settings.deepspeed.config)
    added = _read(path)
    for key, setting in _DECIDED_ELSEWHERE.items():
        if key in added:
            raise SettingsError(
                f"{path} has {key}, which {setting} decides; remove it from deepspeed.config"
            )
    return _merged(_merged(suggested, added), made, source=path)


_SETTING_OF = {
    "gradient_clipping": "train.clip_norm",
    "zero_optimization.stage": "deepspeed.zero_stage",
    "torch_autocast.enabled": "train.precision",
}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{path} cannot be read ({error}), expected a JSON object; change deepspeed.config"
        ) from error
    if not isinstance(content, dict):
        raise SettingsError(
            f"{path} holds a {type(content).__name__}, expected a JSON object; "
            "change deepspeed.config"
        )
    return content


def _merged(
    base: Mapping[str, Any], over: Mapping[str, Any], source: Path | None = None, prefix: str = ""
) -> dict[str, Any]:
    """Return `base` with `over` in it; with a `source` of `base`, they must not contradict."""
    merged = dict(base)
    for key, value in over.items():
        found = merged.get(key)
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            merged[key] = _merged(found, value, source, f"{prefix}{key}.")
            continue
        if source is not None and key in base and found != value:
            name = prefix + key
            setting = _SETTING_OF.get(name)
            way_out = f"remove it or change {setting}" if setting else "remove it"
            raise SettingsError(
                f"{source} has {name}={json.dumps(found)}, expected {json.dumps(value)} as the "
                f"settings have it; {way_out}"
            )
        merged[key] = value
    return merged


class DeepSpeedEngine:
    """DeepSpeed with ZeRO 0, 1 or 2, and PyTorch's optimizers.

    Args:
        settings: of the run.
        model: on this rank's device; its parameters become those of rank 0.
        processes: all ranks; their group is the one that DeepSpeed uses.

    Raises:
        SettingsError: DeepSpeed does not take its settings.
    """

    def __init__(self, settings: Settings, model: LightRNN, processes: Processes) -> None:
        self._model = model
        self._world_size = processes.world_size
        self._clip_norm = settings.train.clip_norm
        self._shared = settings.deepspeed.zero_stage > 0
        self._torch_optimizer = make_optimizer(model.parameters(), settings.train)
        config = deepspeed_settings(
            settings,
            bfloat16=wants_bfloat16(settings.train, processes.device),
            num_parameters=model.num_parameters,
        )
        self._engine: Any = _initialize(model, self._torch_optimizer, config, processes)
        self._zero: Any = self._engine.optimizer

    def forward(
        self, inputs_BT: Tensor, targets_BT: Tensor, state: Tensor, dropout_keys: Tensor
    ) -> WordLosses:
        """Return the summed losses of this rank's lanes."""
        losses = self._engine(inputs_BT, targets_BT, state, dropout_keys)
        assert isinstance(losses, WordLosses)
        return losses

    def backward(self, loss: Tensor, *, last: bool = True) -> None:
        """Add the gradient of the sum of all ranks' `loss`."""
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks.
        self._engine.backward(loss_to_differentiate(loss, self._world_size))

    def step(self, rate: float) -> Tensor:
        """Clip, update unless the gradient is not finite, and forget the gradient."""
        if not self._shared:
            norm = prepare_update(self._torch_optimizer, self._model, rate, self._clip_norm)
            self._engine.step()
            return norm
        for group in self._torch_optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        return torch.tensor(float(self._engine.get_global_grad_norm()))

    def rehearse(self, loss: Tensor) -> None:
        """Do what a step does, without effect."""
        self.backward(loss * torch.nan)
        self.step(0.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and what the optimizer keeps, brought together from all ranks."""
        if not self._shared:
            kept = optimizer_tensors(self._model, self._torch_optimizer)
        else:
            kept = {
                f"optimizer.{name}.{key}": value
                for name, parameter in self._model.named_parameters()
                for key, value in self._kept_of(parameter)
            }
        return {**model_tensors(self._model), **kept}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over tensors of these names, each rank its share of the optimizer's."""
        with torch.no_grad():
            for name, value in model_tensors(self._model).items():
                value.copy_(tensors[name])
        names = [name for name, _ in self._model.named_parameters()]
        kept = state_by_parameter(names, tensors)
        if self._shared:
            self._zero.refresh_fp32_params()
            self._load_shares(kept)
            return
        state = {number: kept[name] for number, name in enumerate(names) if kept[name]}
        content = self._torch_optimizer.state_dict()
        self._torch_optimizer.load_state_dict({**content, "state": state})

    def close(self) -> None:
        """Let go of the process group."""
        self._engine.destroy()
        del self._engine, self._zero

    @property
    def _flat_states(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yield this rank's share of all parameters, flat, and what the optimizer keeps of it."""
        for flat in self._zero.single_partition_of_fp32_groups:
            yield flat, self._torch_optimizer.state[flat]

    def _kept_of(self, parameter: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
        """Yield what the optimizer keeps of a parameter, whole, from all ranks."""
        from deepspeed.utils import safe_get_full_optimizer_state

        for flat, state in self._flat_states:
            for key, value in state.items():
                if not isinstance(value, Tensor):
                    continue
                shared = value.shape == flat.shape
                yield key, safe_get_full_optimizer_state(parameter, key) if shared else value

    def _load_shares(self, kept: Mapping[str, Mapping[str, Tensor]]) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        first = next(iter(kept.values()))
        if not first:
            return
        for flat, state in self._flat_states:
            for key, value in first.items():
                # A number such as Adam's count of steps is the same for all parameters.
                state[key] = torch.zeros_like(flat) if value.ndim else value.to(flat.device)
        self._zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._model.named_parameters():
            for key, value in kept[name].items():
                if value.ndim:
                    safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)


def _initialize(
    model: LightRNN,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    processes: Processes,
) -> Any:
    """Return DeepSpeed's engine in the process group that is there."""
    if processes.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(processes.local_rank))
    import deepspeed
    import deepspeed.ops

    # Compiled at its first use, which takes minutes, and of use for inference only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    try:
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
    except (ValueError, TypeError, AssertionError, KeyError) as error:
        raise SettingsError(
            f"DeepSpeed does not take its settings: {' '.join(str(error).split())[:300]}; "
            "change deepspeed.config"
        ) from error
    return engine
