"""Step 1 of a build: every span of the input becomes blocks of tokens, in files of their own."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data_shards.errors import CorpusError
from data_shards.files import arrow_file
from data_shards.merging import Run, write_run
from data_shards.pool import Report, Workers
from data_shards.recipe import Recipe
from data_shards.shards import SCHEMA, batches_of_rows
from data_shards.sources import Span, read_pieces
from data_shards.tokens import Block, BlockBuilder, parse_piece
from data_shards.work_folder import Note, WorkFolder


@dataclass(frozen=True)
class StoredBlock:
    """A block in files of the build.

    Attributes:
        name: of its files.
        split: which it belongs to.
        num_words, num_word_bytes: its different words, and what they take.
        tokens, rows: their numbers.
    """

    name: str
    split: str
    num_words: int
    num_word_bytes: int
    tokens: int
    rows: int

    def run(self, folder: WorkFolder) -> Run:
        """Return the file of its words and their counts."""
        return Run(folder.text / f"{self.name}.words.arrow", self.num_words, self.num_word_bytes)

    def ids(self, folder: WorkFolder) -> Path:
        """Return the file of its rows: a shard, but with the ids of its own words."""
        return folder.text / f"{self.name}.ids.arrow"


def read_blocks(
    spans: Mapping[str, Sequence[Span]],
    recipe: Recipe,
    folder: WorkFolder,
    workers: Workers,
    on_progress: Report,
) -> list[StoredBlock]:
    """Read the spans of all splits; return their blocks in order.

    Raises:
        CorpusError: a text cannot be used.
    """
    all_spans = {
        f"{split}-{number:06d}": (split, span)
        for split, own in spans.items()
        for number, span in enumerate(own)
    }
    notes = {name: folder.note(name) for name in all_spans}
    tasks = {
        name: (read_span, name, *all_spans[name], recipe, folder)
        for name, note in notes.items()
        if note is None
    }
    progress = Progress(sum(all_spans[name][1].num_bytes for name in tasks), len(tasks))
    for name, note in workers.each(tasks):
        notes[name] = note
        on_progress(progress.after(all_spans[name][1].num_bytes))
    blocks = [StoredBlock(**block) for note in notes.values() if note for block in note["blocks"]]
    for split in spans:
        if not any(block.split == split for block in blocks):
            raise CorpusError(
                f"the {split} text has no rows, expected at least one; change --{split}"
            )
    return blocks


def read_span(name: str, split: str, span: Span, recipe: Recipe, folder: WorkFolder) -> Note:
    """Write the blocks of a span; return the note on it, which is on file then."""
    pieces = read_pieces(span, recipe.text, f"--{split}")
    if split == "train" and recipe.hold_out and recipe.hold_out.by == "rows":
        routed = recipe.hold_out.route(pieces)
    else:
        routed = ((split, piece) for piece in pieces)
    builders: dict[str, BlockBuilder] = {}
    stored: list[StoredBlock] = []

    def store(blocks: Iterator[Block], own_split: str) -> None:
        for block in blocks:
            stored.append(_store(block, f"{name}-{len(stored):04d}", own_split, folder))

    for own_split, piece in routed:
        tokens = parse_piece(
            piece.text, records=piece.records, max_word_bytes=recipe.max_word_bytes
        )
        builder = builders.setdefault(own_split, BlockBuilder(recipe.shard_tokens))
        store(builder.add(tokens), own_split)
    for own_split, builder in builders.items():
        store(builder.finish(), own_split)
    note = {"blocks": [asdict(block) for block in stored]}
    folder.write_note(name, note)
    return note


def _store(block: Block, name: str, split: str, folder: WorkFolder) -> StoredBlock:
    stored = StoredBlock(
        name, split, len(block.words), block.words.nbytes, len(block.ids), len(block.row_ends)
    )
    # An earlier try may have been stopped in the middle of a file.
    run, ids = stored.run(folder), stored.ids(folder)
    for path in (run.path, ids):
        path.unlink(missing_ok=True)
    write_run(run.path, block.words, block.counts)
    with arrow_file(ids, SCHEMA) as (_, writer):
        for batch in batches_of_rows(block.ids, block.row_ends):
            writer.write_batch(batch)
    return stored


class Progress:
    """How far a step is, by bytes: a line with the speed and the time that is left.

    Args:
        num_bytes: in all, on disk.
        num_parts: spans in all.
    """

    def __init__(self, num_bytes: int, num_parts: int) -> None:
        self._num_bytes, self._num_parts = num_bytes, num_parts
        self._began = time.monotonic()
        self._done_bytes = self._done_parts = 0

    def after(self, num_bytes: int) -> str:
        """Return the line after one more part of so many bytes."""
        self._done_bytes += num_bytes
        self._done_parts += 1
        speed = self._done_bytes / max(time.monotonic() - self._began, 1e-3)
        seconds_left = (self._num_bytes - self._done_bytes) / max(speed, 1.0)
        return (
            f"read {self._done_parts} of {self._num_parts} parts, {self._done_bytes / 1e6:.1f} of "
            f"{self._num_bytes / 1e6:.1f} MB, {speed / 1e6:.1f} MB/s, {seconds_left:.0f} s left"
        )
