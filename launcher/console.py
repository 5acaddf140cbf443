"""The records of a run as lines for people."""

from collections.abc import Callable, Iterator
from typing import Any

Record = dict[str, Any]


def describe(record: Record) -> Iterator[str]:
    """Yield the lines that tell a record of `metrics.jsonl` on the console."""
    lines = _LINES.get(record["event"])
    if lines is not None:
        yield from lines(record)


def _start(record: Record) -> Iterator[str]:
    yield (
        "{vocab_size} words in {num_rows} x {num_columns} cells | {num_parameters} parameters | "
        "{world_size} processes on {device} | {num_lanes} {batch} | "
        "{steps_per_epoch} steps an epoch, {total_steps} in all"
    ).format(batch=f"lanes x {record['bptt']} words" if "bptt" in record else "rows", **record)
    yield (
        "{flops_per_word:.3g} floating-point operations a word | products of matrices reach "
        "{ceiling_flops_per_second:.3g} a second on a device"
    ).format(**record)
    if "unigram_perplexity" in record:
        yield f"unigram perplexity of the validation text {record['unigram_perplexity']:.2f}"


def _train(record: Record) -> Iterator[str]:
    yield (
        "epoch {epoch:.2f} | step {step}/{total_steps} | loss {loss:.3f} | "
        "perplexity {perplexity:.1f} | {tokens_per_second:.0f} tokens/s | "
        "MFU {mfu:.1%} | ETA {left}"
    ).format(left=readable_time(record["seconds_left"]), **record) + _straggler(record)


STRAGGLING = 0.1
"""A rank is told of whose own work takes longer than the mean by so much of a step."""


def _straggler(record: Record) -> str:
    if "own_seconds_max" not in record:
        return ""
    behind = record["own_seconds_max"] - record["own_seconds_mean"]
    if behind <= STRAGGLING * record["step_seconds_mean"]:
        return ""
    return (
        " | rank {slowest_rank} is slow: its own work takes {own_seconds_max:.3f} s a step, on "
        "average of ranks {own_seconds_mean:.3f} s"
    ).format(**record)


def _valid(record: Record) -> Iterator[str]:
    yield "epoch {epoch:.2f} | validation perplexity {perplexity:.2f}".format(**record)


def _reallocation(record: Record) -> Iterator[str]:
    after = record.get("loss_after")
    yield (
        "epoch {epoch:.2f} | reallocation {table_version} | {words_moved} words "
        "({tokens_moved_fraction:.0%} of tokens) moved | training loss {loss_before:.3f}, "
        "predicted {loss_predicted:.3f}{measured} | gap to the best table at most "
        "{gap_percent:.2f} %"
    ).format(measured="" if after is None else f", right after {after:.3f}", **record)
    if "valid_perplexity_before" in record:
        yield (
            "epoch {epoch:.2f} | validation perplexity {valid_perplexity_before:.2f} before "
            "reallocation {table_version}, {valid_perplexity_after:.2f} right after"
        ).format(**record)


def _kept(record: Record) -> Iterator[str]:
    yield (
        "epoch {epoch:.2f} | the words stay: held-out loss {held_out_before:.4f}, with the least "
        "moves of {num_tries} tables tried {held_out_after:.4f}"
    ).format(num_tries=len(record["tries"]), **record)


def _profile(record: Record) -> Iterator[str]:
    yield f"profile: {1e3 * record['seconds_per_step']:.2f} ms a step, trace {record['trace']}"
    for kind, share in record["shares"].items():
        yield f"  {kind:<18} {1e3 * share * record['seconds_per_step']:9.2f} ms  {share:6.1%}"


def _end(record: Record) -> Iterator[str]:
    for split, name in (("valid", "validation"), ("test", "test")):
        if f"{split}_perplexity" in record:
            yield f"final {name} perplexity {record[f'{split}_perplexity']:.2f}"


_LINES: dict[str, Callable[[Record], Iterator[str]]] = {
    "start": _start,
    "train": _train,
    "valid": _valid,
    "reallocation": _reallocation,
    "kept": _kept,
    "profile": _profile,
    "end": _end,
}


def readable_time(seconds: float) -> str:
    """Return a duration such as `1:02:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
