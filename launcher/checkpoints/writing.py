"""Writing a checkpoint: every rank its part, at last what makes it valid."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from allocation import TorchCommunicator
from launcher.checkpoints.folders import checkpoint_name
from launcher.checkpoints.meta import META_FILE
from launcher.checkpoints.snapshot import Snapshot
from launcher.checkpoints.whole_folders import write_whole_folder
from launcher.run_dir import RunDirectory

RANDOM_STATE = Path("rng") / "rng.safetensors"
_INDEX = ".metadata"


def write_checkpoint(
    run: RunDirectory, snapshot: Snapshot, communicator: TorchCommunicator
) -> Path:
    """Write a checkpoint and return its folder; called by every rank.

    What is the same on all ranks is shared out among them.

    Raises:
        LightRNNError: on every rank, where any cannot write; no earlier checkpoint is touched.
    """
    meta, rank = snapshot.meta, communicator.rank
    final = run.checkpoints / checkpoint_name(meta.step, reallocation_due=meta.rounds["due"])

    def write(folder: Path) -> Sequence[Path]:
        # Files are synced by who hashes them.
        writer = FileSystemWriter(folder, sync_files=False)
        save(snapshot.tensors, storage_writer=writer, process_group=communicator.group)
        paths = sorted(folder.glob(f"__{rank}_*.distcp"))
        if rank == 0:
            (folder / RANDOM_STATE).parent.mkdir()
            save_file({"torch": snapshot.random_state}, folder / RANDOM_STATE)
            paths += [folder / _INDEX, folder / RANDOM_STATE]
        return paths

    write_whole_folder(
        final, write, META_FILE, lambda files: asdict(replace(meta, files=files)), communicator
    )
    return final
