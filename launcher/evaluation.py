"""Perplexity over all processes, each on its lanes."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from data_shards import Batches
from launcher.batches import all_batches
from launcher.processes import Processes
from lightrnn import LightRNN, Losses, sum_losses

Autocast = Callable[[], AbstractContextManager[None]]


def evaluate(
    model: LightRNN,
    batches: Batches,
    processes: Processes,
    autocast: Autocast,
    max_tokens: int | None = None,
) -> Losses:
    """Return the losses of a split summed over all processes; the same on each of them.

    Args:
        model: with its table set.
        batches: this rank's lanes of the split.
        processes: who adds up.
        autocast: what the forward passes run under.
        max_tokens: about how many tokens to take from the lanes' beginnings; None for all.
    """
    with autocast():
        totals = sum_losses(
            model,
            processes.watch.through(all_batches(batches, processes.device, max_tokens)),
            carry_state=batches.carries_state,
        )
    row_nll, column_nll, tokens = processes.sum(totals).tolist()
    return Losses(row_nll, column_nll, round(tokens))
