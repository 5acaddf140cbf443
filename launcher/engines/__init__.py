"""What computes a run's steps on all of its processes: DDP or DeepSpeed."""

from launcher.engines.ddp import DDPEngine
from launcher.engines.deepspeed import DeepSpeedEngine, check_deepspeed
from launcher.engines.engine import Engine
from launcher.processes import Processes
from launcher.settings import Settings
from lightrnn import LightRNN

__all__ = ["DDPEngine", "DeepSpeedEngine", "Engine", "check_deepspeed", "make_engine"]


def make_engine(settings: Settings, model: LightRNN, processes: Processes) -> Engine:
    """Return the engine that the settings ask for; called by all ranks.

    Args:
        settings: of the run.
        model: on this rank's device, with the same parameters on every rank.
        processes: all ranks.

    Raises:
        SettingsError: DeepSpeed does not take its settings.
    """
    if settings.train.engine == "deepspeed":
        return DeepSpeedEngine(settings, model, processes)
    return DDPEngine(model, settings.train, processes.world_size)
