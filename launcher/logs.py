"""Where the log goes; apart from what needs torch, for commands that do not."""

import logging
import sys
from pathlib import Path

log = logging.getLogger("lightrnn")


def log_to_console(rank: int, world_size: int) -> None:
    """Send the first rank's log to standard error, and the errors of every rank."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    who = f"[rank {rank}] " if world_size > 1 and rank > 0 else ""
    handler.setFormatter(logging.Formatter(f"{who}%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def log_to_file(path: Path, rank: int) -> None:
    """Send this rank's log to a file too, with the time and the rank in each line."""
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter(f"%(asctime)s [rank {rank}] %(message)s"))
    log.addHandler(handler)


class _LogFile(logging.FileHandler):
    """A file that may miss lines while its disk is full: the console has those that matter."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
