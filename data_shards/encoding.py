"""Step 3 of a build: every block becomes a shard of word ids."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from data_shards.corpus import map_rows
from data_shards.errors import CorpusError
from data_shards.files import arrow_file, sync_folder
from data_shards.manifest import Manifest, Shard, Split, VocabularyFile
from data_shards.merging import read_run
from data_shards.pool import Report, Workers
from data_shards.reading import StoredBlock
from data_shards.recipe import Recipe
from data_shards.shards import SCHEMA
from data_shards.vocabulary import Vocabulary, ids_of_words
from data_shards.work_folder import Note, WorkFolder

SPLITS = "train", "valid", "test"


def encode_blocks(
    blocks: Sequence[StoredBlock],
    vocabulary: VocabularyFile,
    recipe: Recipe,
    folder: WorkFolder,
    workers: Workers,
    on_progress: Report,
) -> Manifest:
    """Write a shard for each block, in order; return the corpus's manifest.

    Raises:
        CorpusError: nothing was left for a split that was to be held out.
    """
    of_split = {name: [block for block in blocks if block.split == name] for name in SPLITS}
    of_split = {name: own for name, own in of_split.items() if own}
    if recipe.hold_out and len(of_split) < len(SPLITS):
        raise CorpusError(
            f"the text is too short to hold out {recipe.hold_out.fraction} of it; raise "
            "--hold-out, or give --valid and --test"
        )
    for name in of_split:
        (folder.corpus / name).mkdir(exist_ok=True)
    files = {
        block.name: f"{name}/{number:05d}.arrow"
        for name, own in of_split.items()
        for number, block in enumerate(own)
    }
    notes = {block.name: folder.note(f"shard-{block.name}") for block in blocks}
    tasks = {
        block.name: (encode_block, block, files[block.name], vocabulary, folder)
        for block in blocks
        if notes[block.name] is None
    }
    num_done = len(blocks) - len(tasks)
    for name, note in workers.each(tasks):
        notes[name] = note
        num_done += 1
        on_progress(f"wrote {num_done} of {len(blocks)} shards")
    splits = {
        name: _split(own, [note for block in own if (note := notes[block.name])])
        for name, own in of_split.items()
    }
    for name in of_split:
        sync_folder(folder.corpus / name)
    return Manifest(recipe.tokenization, vocabulary, splits)


def encode_block(
    block: StoredBlock, file: str, vocabulary: VocabularyFile, folder: WorkFolder
) -> Note:
    """Write a block as a shard; return the note on it, which is on file then."""
    words, counts = read_run(block.run(folder).path)
    known = _words_of(folder.corpus / vocabulary.file, vocabulary.sha256)
    id_of_place = ids_of_words(words, known, vocabulary.unk_id)
    path = folder.corpus / file
    path.unlink(missing_ok=True)
    with arrow_file(path, SCHEMA) as (written, writer):
        for rows in map_rows(block.ids(folder)):
            ids = id_of_place[rows.values.to_numpy()]
            batch = pa.ListArray.from_arrays(rows.offsets, ids)
            writer.write_batch(pa.record_batch([batch], schema=SCHEMA))
    shard = Shard(file, block.rows, block.tokens, written.num_bytes, written.sha256)
    is_unknown = id_of_place == vocabulary.unk_id
    note = asdict(shard) | {"unknown_tokens": int(counts.to_numpy()[is_unknown].sum())}
    folder.write_note(f"shard-{block.name}", note)
    block.ids(folder).unlink()
    return note


@lru_cache(maxsize=1)
def _words_of(path: Path, sha256: str) -> pa.BinaryArray:
    """Return the words of a vocabulary, once for all blocks that a worker encodes."""
    return Vocabulary.load(path).words.array.cast(pa.binary())


def _split(blocks: Sequence[StoredBlock], notes: Sequence[Note]) -> Split:
    shards = tuple(
        Shard(**{key: value for key, value in note.items() if key != "unknown_tokens"})
        for note in notes
    )
    return Split(
        tokens=sum(block.tokens for block in blocks),
        rows=sum(block.rows for block in blocks),
        unknown_tokens=sum(note["unknown_tokens"] for note in notes),
        shards=shards,
    )
