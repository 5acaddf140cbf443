"""What a run tells: one JSON object a line, TensorBoard, and a line on the console."""

import json
import logging
import time
from types import TracebackType
from typing import Any, Self

from launcher.console import describe
from launcher.run_dir import RunDirectory

log = logging.getLogger("lightrnn")


class Metrics:
    """Writes the records of a run; on all ranks but the first it writes nothing.

    Use as a context manager, which closes its files.
    """

    def __init__(
        self, run: RunDirectory, step: int, *, enabled: bool, wandb_project: str = ""
    ) -> None:
        self._start = time.monotonic()
        self._file = self._board = self._wandb = None
        if enabled:
            # Imported where it is used: it takes a second, and one rank needs it.
            from torch.utils.tensorboard import SummaryWriter

            self._file = run.metrics.open("a")
            self._board = SummaryWriter(str(run.tensorboard), purge_step=step)
            if wandb_project:
                import wandb

                self._wandb = wandb.init(
                    project=wandb_project, name=run.path.name, dir=str(run.path), resume="allow"
                )

    def record(self, event: str, step: int, table_version: int, **values: Any) -> None:
        """Append a record and tell it; numbers go to TensorBoard too, under `event/name`."""
        if self._file is None or self._board is None:
            return
        values["elapsed_seconds"] = round(time.monotonic() - self._start, 3)
        content = {"event": event, "step": step, "table_version": table_version, **values}
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()
        for line in describe(content):
            log.info(line)
        numbers = {
            f"{event}/{name}": value
            for name, value in values.items()
            if isinstance(value, (int, float))
        }
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)
