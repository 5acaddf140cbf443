"""What computes a run's steps on all of its processes: DDP."""

from launcher.engines.ddp import DDPEngine
from launcher.engines.engine import Engine, optimizer_tensors
from launcher.processes import Processes
from launcher.settings import Settings
from lightrnn import LightRNN

__all__ = ["DDPEngine", "Engine", "make_engine", "optimizer_tensors"]


def make_engine(settings: Settings, model: LightRNN, processes: Processes) -> Engine:
    """Return the engine that the settings ask for; called by all ranks.

    Args:
        settings: of the run.
        model: on this rank's device, with the same parameters on every rank.
        processes: all ranks.
    """
    return DDPEngine(model, settings.train, processes.world_size)
