"""The sections of the page that tell numbers: summary, curves, reallocations, settings."""

import math
from collections.abc import Mapping
from itertools import groupby

import numpy as np

from launcher.report.markup import (
    NONE,
    Html,
    decimal,
    duration,
    element,
    escape,
    join,
    note,
    percent,
    perplexity,
    picture_if_drawn,
    size,
    table,
    whole,
)
from launcher.report.run_data import Record, RunData, column, number, number_or


def summary_section(run: RunData) -> Html:
    """List what the run is and how good it has become."""
    start, end = run.start, run.end or {}
    final = number_or(end, "valid_perplexity", math.nan)
    validations = column(run.valid, "perplexity")
    if math.isnan(final) and len(validations):
        final = float(validations[-1])
    best, best_epoch = math.nan, ""
    if np.isfinite(validations).any():
        position = int(np.nanargmin(validations))
        best = float(validations[position])
        best_epoch = f" (epoch {decimal(number(run.valid[position], 'epoch'))})"
    shape = " × ".join(whole(number(start, f"num_{axis}")) for axis in ("rows", "columns"))
    batch = f"{whole(number(start, 'num_lanes'))} "
    batch += f"lanes × {whole(number(start, 'bptt'))} words" if "bptt" in start else "rows"
    versions = start.get("versions")
    facts = {
        "Validation perplexity": perplexity(final),
        "Best validation perplexity": perplexity(best) + best_epoch,
        "Test perplexity": perplexity(number(end, "test_perplexity")),
        "Unigram perplexity": perplexity(number(start, "unigram_perplexity")),
        "Vocabulary": f"{whole(number(start, 'vocab_size'))} words",
        "Word table": f"{shape} cells",
        "Parameters": whole(number(start, "num_parameters")),
        "Steps": f"{whole(number(run.last, 'step'))} of {whole(number(start, 'total_steps'))}",
        "Epochs": decimal(_last_epoch(run)),
        "Batch": batch,
        "Training text": f"{whole(number(start, 'tokens_per_epoch'))} tokens",
        "Reallocations": whole(len(run.reallocations)),
        "Processes": _processes(run),
        "Device": start.get("device", NONE),
        "Wall time": duration(run.elapsed_seconds),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items())
        if isinstance(versions, Mapping)
        else NONE,
    }
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", fact)) for name, fact in facts.items()),
    )


def _last_epoch(run: RunData) -> float:
    epochs = column([*run.train[-1:], *run.valid[-1:]], "epoch")
    return float(np.nanmax(epochs)) if np.isfinite(epochs).any() else math.nan


def _processes(run: RunData) -> str:
    """Name the world size, and each one that a resume changed to."""
    world_sizes = (whole(number(start, "world_size")) for start in run.starts)
    return ", then ".join(world_size for world_size, _ in groupby(world_sizes)) or NONE


def curves_section(run: RunData, pictures: Mapping[str, bytes]) -> Html:
    """Show the curves over epochs."""
    if "perplexity" not in pictures:
        return note("No training step has been logged yet.")
    return join(
        [
            picture_if_drawn(
                pictures,
                "perplexity",
                "Perplexity in training and validation over epochs",
                "Perplexity over epochs. Smoothing begins anew with each word table; dashed lines "
                "are reallocations, numbered by the table version they made.",
            ),
            picture_if_drawn(
                pictures,
                "row_column_loss",
                "Row and column loss over epochs",
                "The two parts of the loss: finding the row of the next word, and finding its "
                "column once the row is known. Their sum is the loss a token.",
            ),
            picture_if_drawn(
                pictures,
                "pace",
                "Learning rate, gradient norm and speed over epochs",
                "Learning rate, gradient norm before clipping, and tokens a second of all "
                "processes together.",
            ),
            _straggler(run),
        ]
    )


STRAGGLING = 0.1
"""A rank is told of whose own work takes longer than the mean by so much of a step, if it is the
slowest most of the time.
"""


def _straggler(run: RunData) -> Html:
    """Name the rank that the others waited for, where there was one."""
    slowest, most, mean, step = (
        column(run.train, name)
        for name in ("slowest_rank", "own_seconds_max", "own_seconds_mean", "step_seconds_mean")
    )
    behind = (most - mean) / step
    known = np.isfinite(slowest) & np.isfinite(behind)
    if not known.any():
        return join([])
    ranks, counts = np.unique(slowest[known], return_counts=True)
    rank, share = ranks[counts.argmax()], float(counts.max() / known.sum())
    part_of_step = float(np.median(behind[known & (slowest == rank)]))
    if part_of_step < STRAGGLING or share <= 0.5:
        return join([])
    return note(
        f"The others waited for rank {whole(rank)}: it was the slowest in {percent(share)} of the "
        f"intervals, and its own work there took {percent(part_of_step)} of a step longer than "
        "that of the average rank."
    )


def reallocations_section(run: RunData, pictures: Mapping[str, bytes]) -> Html:
    """Show what each reallocation promised, did and cost."""
    if not run.reallocations:
        yet = note("No reallocation has taken place yet.")
        return join([yet, _tries(run)]) if run.kept else yet
    return join(
        [
            picture_if_drawn(
                pictures,
                "reallocations",
                "Loss before, predicted and measured after each reallocation",
                "The prediction holds the hidden states fixed. Right after the move the inputs of "
                "later steps have changed too, and the network has yet to adapt to them.",
            ),
            _outcomes(run.reallocations),
            note(
                "Losses in nats per token of the training text; gap: how far at most the "
                "solver's result lies above its optimum."
            ),
            _tries(run),
            element("h3", "What they took"),
            _efforts(run.reallocations),
        ]
    )


def _outcomes(reallocations: list[Record]) -> Html:
    """List what each reallocation moved, and the loss and perplexity around it."""
    headers = [
        *("Table", "Epoch", "Solver", "Gap", "Words moved", "Tokens moved", "Loss before"),
        *("Loss predicted", "Loss after", "Valid. perplexity before", "Valid. perplexity after"),
    ]
    lines = [
        [
            whole(number(record, "table_version")),
            decimal(number(record, "epoch")),
            record.get("solver", NONE),
            f"{decimal(number(record, 'gap_percent'), 4)} %",
            f"{whole(number(record, 'words_moved'))} "
            f"({percent(number(record, 'words_moved_fraction'))})",
            percent(number(record, "tokens_moved_fraction")),
            *(
                decimal(number(record, f"loss_{when}"), 3)
                for when in ("before", "predicted", "after")
            ),
            *(
                perplexity(number(record, f"valid_perplexity_{when}"))
                for when in ("before", "after")
            ),
        ]
        for record in reallocations
    ]
    return table(headers, lines, numeric="nntnnnnnnnn")


def _tries(run: RunData) -> Html:
    """List the tables that were tried on held-out text, where any were."""
    tried = sorted(
        (record for record in run.reallocations + run.kept if "held_out_before" in record),
        key=lambda record: number(record, "step"),
    )
    if not tried:
        return join([])
    headers = [
        *("Epoch", "Moves", "Bonus", "Tokens moved", "Loss predicted", "Held-out loss before"),
        *("Held-out loss after", "Outcome"),
    ]
    lines = [
        [
            decimal(number(record, "epoch")),
            str(record.get("moves", NONE)),
            decimal(number(attempt, "stay_bonus")),
            percent(number(attempt, "tokens_moved_fraction")),
            decimal(number(attempt, "loss_predicted"), 4),
            decimal(number(record, "held_out_before"), 4),
            decimal(number(attempt, "held_out_loss"), 4),
            _outcome(record, attempt),
        ]
        for record in tried
        for attempt in record.get("tries", [])
    ]
    return join(
        [
            element("h3", "What was tried"),
            table(headers, lines, numeric="ntnnnnnt"),
            note(
                "Each table has twice the bonus for staying of the one before, in nats per token; "
                "the best one is taken if its held-out loss is tolerated."
            ),
        ]
    )


def _outcome(record: Record, attempt: Record) -> str:
    if record.get("event") == "kept":
        return "words stay"
    taken = record.get("held_out_after") == attempt.get("held_out_loss")
    return "taken" if taken else "not taken"


def _efforts(reallocations: list[Record]) -> Html:
    """List the time of each step of each reallocation, and what the processes exchanged."""
    phases = list(dict.fromkeys(phase for record in reallocations for phase in _seconds(record)))
    lines = [
        [
            whole(number(record, "table_version")),
            *(duration(number(_seconds(record), phase)) for phase in phases),
            duration(sum(number(_seconds(record), phase) for phase in _seconds(record))),
            size(number(record, "bytes_exchanged")),
        ]
        for record in reallocations
    ]
    headers = ["Table", *(phase.capitalize() for phase in phases), "Together", "Sent by rank 0"]
    return table(headers, lines, numeric="n" * len(headers))


def _seconds(record: Record) -> Record:
    seconds = record.get("seconds")
    return seconds if isinstance(seconds, Mapping) else {}


def configuration_section(run: RunData) -> Html:
    """Hold the settings, folded away."""
    if run.config_text is None:
        return note("config.toml is missing.")
    return element(
        "details",
        element("summary", "config.toml, as resolved"),
        element("pre", escape(run.config_text)),
    )
