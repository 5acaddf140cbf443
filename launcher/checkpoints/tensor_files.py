"""Writing large tensors to safetensors, block by block, without a copy of the whole in memory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROWS_PER_BLOCK = 4096

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}
_LENGTH_BYTES = 8


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, on any device or mapped from files, to a new safetensors file.

    Raises:
        OSError: there is no room.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        kind, shape = _TYPES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // _LENGTH_BYTES) * _LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        file.write(text)
        for tensor in tensors.values():
            for start in range(0, len(tensor), ROWS_PER_BLOCK):
                block = tensor[start : start + ROWS_PER_BLOCK].detach()
                file.write(block.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
