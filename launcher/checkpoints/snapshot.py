"""What a checkpoint holds of a training state, as named tensors.

Legend: S states of a layer, L layers, H hidden.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from launcher.checkpoints.meta import FORMAT_VERSION, DamagedCheckpoint, Meta
from launcher.state import TrainingState
from lightrnn import WordTable

TABLE_TENSORS = ("table.row_of_word", "table.column_of_word")


@dataclass(frozen=True)
class Snapshot:
    """All that a checkpoint holds, on one rank.

    Attributes:
        tensors: this rank's lanes, and what is the same on every rank, by name.
        random_state: of torch's generator.
        meta: everything else; its files are not known yet.
    """

    tensors: dict[str, Tensor]
    random_state: Tensor
    meta: Meta

    def on_host(self) -> "Snapshot":
        """Return a copy in the host's memory, which training does not change."""
        copies = {
            name: torch.empty_like(
                tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False
            ).copy_(tensor.detach(), non_blocking=True)
            for name, tensor in self.tensors.items()
        }
        if any(tensor.is_cuda for tensor in self.tensors.values()):
            torch.cuda.synchronize()
        return replace(self, tensors=copies)


def take_snapshot(
    state: TrainingState, *, loader: dict[str, Any], fixed: dict[str, Any]
) -> Snapshot:
    """Return what a checkpoint holds of a state; tensors are not copied.

    Args:
        state: what.
        loader: the position in the corpus.
        fixed: settings that a resumed run has to share.
    """
    meta = Meta(
        format_version=FORMAT_VERSION,
        step=state.step,
        table_version=state.table_version,
        table_fingerprint=state.table.fingerprint,
        table_shape=[state.table.num_rows, state.table.num_columns],
        rounds=asdict(state.rounds),
        skipped=asdict(state.skipped),
        valid_perplexity=state.valid_perplexity,
        loader=loader,
        fixed=fixed,
        files={},
    )
    return Snapshot(named_tensors(state), torch.get_rng_state(), meta)


def named_tensors(state: TrainingState) -> dict[str, Tensor]:
    """Return all tensors of a state: this rank's lanes, and what is the same on every rank."""
    cells = (state.table.row_of_word, state.table.column_of_word)
    return {
        **state.engine.tensors(),
        **({} if state.averaged is None else state.averaged.tensors()),
        **dict(zip(TABLE_TENSORS, map(torch.tensor, cells), strict=True)),
        **lane_tensors(state.lane_state, state.lanes),
    }


def table_of(tensors: Mapping[str, Tensor], meta: Meta) -> WordTable:
    """Return the word table among the tensors of a checkpoint.

    Raises:
        DamagedCheckpoint: it is another one than `meta` says.
    """
    rows, columns = (tensors[name].numpy() for name in TABLE_TENSORS)
    table = WordTable(rows, columns, *meta.table_shape)
    if table.fingerprint != meta.table_fingerprint:
        raise DamagedCheckpoint(
            f"the table of step {meta.step} does not match its fingerprint; remove this "
            "checkpoint's folder to go on from the one before"
        )
    return table


def lane_tensors(lane_state: Tensor, lanes: range) -> dict[str, Tensor]:
    """Return the recurrent state of each lane, [S, L, H], by the lane's number."""
    return {
        f"lane_states.{lane:06d}": lane_state[:, :, place].contiguous()
        for place, lane in enumerate(lanes)
    }


def stack_lanes(tensors: Mapping[str, Tensor], lanes: range) -> Tensor:
    """Return the recurrent states of some lanes, [S, L, lanes, H]."""
    return torch.stack([tensors[f"lane_states.{lane:06d}"] for lane in lanes], dim=2)
