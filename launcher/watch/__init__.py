"""Watching over the processes of a run, see `launcher.watch.watch`."""

from launcher.watch.places import Limits
from launcher.watch.watch import FAILED, Watch, start_watch

__all__ = ["FAILED", "Limits", "Watch", "start_watch"]
