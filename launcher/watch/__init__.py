"""Watching over the processes of a run, see `launcher.watch.watch`."""

from launcher.watch.places import Limits
from launcher.watch.watch import FAILED, INTERRUPTED, Watch, start_watch

__all__ = ["FAILED", "INTERRUPTED", "Limits", "Watch", "start_watch"]
