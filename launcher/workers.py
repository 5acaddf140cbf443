"""Starting the workers of a run on this machine, as torchrun does on many."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from launcher.settings import SettingsError
from launcher.stop import STOPPED

log = logging.getLogger("lightrnn")

_OPTION = "--nproc-per-node"

SECONDS_TO_STOP = 3600


def take_num_workers(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Return the number of workers asked for by `--nproc-per-node N` (1 without), and the rest.

    Raises:
        SettingsError: the number is missing or not a number above 0.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(_OPTION, type=int, default=1)
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise SettingsError(f"{error}; expected {_OPTION} N with the number of workers") from error
    if options.nproc_per_node < 1:
        raise SettingsError(f"{_OPTION} {options.nproc_per_node}, expected at least 1")
    return options.nproc_per_node, rest


def start_workers(num_workers: int, arguments: Sequence[str]) -> int:
    """Train with `num_workers` processes; return the exit status that they agreed on."""
    # One thread a worker, as torchrun has it: they share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_workers)))
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    # A stop waits for the end of a reallocation, which for large vocabularies takes minutes.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_STOP))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_workers,
        run_id=f"lightrnn-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    # The workers tell what is wrong in one line of their own.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    script = str(Path(__file__).with_name("train.py"))
    try:
        elastic_launch(config, sys.executable)("-u", script, *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            log.error("the worker of rank %d was ended by signal %d", rank, -failure.exitcode)
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException:
        return STOPPED
    return 0
