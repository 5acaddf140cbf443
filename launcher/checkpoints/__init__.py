"""Checkpoints: what they are, which there are, whether they are whole, writing and reading them.

A checkpoint is a folder `checkpoints/step-XXXXXXXX/` with the shards of PyTorch Distributed
Checkpoint, the random state, and `meta.json` with everything that is not a tensor and the SHA-256
of every file. Recurrent states are saved lane by lane, everything else once, so that any number of
processes can go on from it. `meta.json`, written last, makes it valid.
"""

from launcher.checkpoints.folders import (
    best_checkpoint,
    checkpoint_name,
    choose_checkpoint,
    list_checkpoints,
    newest_whole_checkpoint,
)
from launcher.checkpoints.loading import load_checkpoint, load_model, load_vocabulary
from launcher.checkpoints.meta import CheckpointError, Meta, read_meta, verify_checkpoint
from launcher.checkpoints.saver import Saver
from launcher.checkpoints.snapshot import Snapshot, take_snapshot
from launcher.checkpoints.writing import write_checkpoint

__all__ = [
    "CheckpointError",
    "Meta",
    "Saver",
    "Snapshot",
    "best_checkpoint",
    "checkpoint_name",
    "choose_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "load_model",
    "load_vocabulary",
    "newest_whole_checkpoint",
    "read_meta",
    "take_snapshot",
    "verify_checkpoint",
    "write_checkpoint",
]
