import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_shards import Corpus, Recipe, TextOptions, prepare_corpus, shards
from data_shards.sources import read_pieces


def words_of(corpus, split="train"):
    tokens = corpus.split(split)
    return " ".join(corpus.vocabulary.words[i] for i in tokens.read(0, len(tokens)))


def num_handles():
    return len(list(Path("/dev/fd").iterdir()))


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_round_trip(small_corpus):
    assert words_of(small_corpus) == (
        "the cat sat <eos> <eos> the dog sat on the mat <eos> zebra apple cat <eos>"
    )
    assert words_of(small_corpus, "valid") == "the zebra <unk> <eos>"
    assert small_corpus.vocabulary.words[:4] == ["<eos>", "the", "cat", "sat"]
    assert small_corpus.vocabulary.words[len(small_corpus.vocabulary) - 1] == "<unk>"
    train, valid = (small_corpus.manifest.splits[name] for name in ("train", "valid"))
    assert (train.tokens, train.rows, train.unknown_tokens) == (16, 4, 0)
    assert (valid.tokens, valid.rows, valid.unknown_tokens) == (4, 1, 1)
    assert [(shard.file, shard.rows, shard.tokens) for shard in train.shards] == [
        ("train/00000.arrow", 2, 5),
        ("train/00001.arrow", 1, 7),
        ("train/00002.arrow", 1, 4),
    ]
    for shard in train.shards:
        content = (small_corpus.path / shard.file).read_bytes()
        assert shard.bytes == len(content)
        assert shard.sha256 == hashlib.sha256(content).hexdigest()
    counts = small_corpus.split("train").count_ids()
    assert counts.tolist() == small_corpus.vocabulary.counts.tolist()


def test_lowercase_and_cut(write, tmp_path):
    path = write("a.txt", "The the CAT <unk> Dog\n")
    manifest = prepare_corpus(
        [path], [], [], tmp_path / "c", Recipe(TextOptions(lowercase=True), vocab_size=3)
    )
    corpus = Corpus.open(tmp_path / "c")
    assert words_of(corpus) == "the the <unk> <unk> <unk> <eos>"
    assert manifest.tokenization.lowercase
    assert manifest.splits["train"].unknown_tokens == 3
    assert list(corpus.vocabulary.words) == ["<unk>", "the", "<eos>"]


def test_a_word_of_the_text_that_reads_eos_ends_no_row(write, tmp_path):
    manifest = prepare_corpus([write("a.txt", "a <eos> b\n")], [], [], tmp_path / "c")
    assert (manifest.splits["train"].rows, manifest.splits["train"].tokens) == (1, 4)
    assert words_of(Corpus.open(tmp_path / "c")) == "a <eos> b <eos>"


def test_same_text_gives_the_same_bytes_however_it_is_read(write, tmp_path, monkeypatch):
    content = "".join(f"{'word ' * (n % 9)}w{n % 7}\n" for n in range(300))
    path = write("a.txt", content)
    recipe = Recipe(shard_tokens=100, vocab_size=6)
    first = prepare_corpus([path], [path], [], tmp_path / "one", recipe)
    monkeypatch.setattr(
        "data_shards.reading.read_pieces",
        lambda *arguments: read_pieces(*arguments, piece_bytes=50),
    )
    second = prepare_corpus([path], [path], [], tmp_path / "two", recipe)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert first.fingerprint == second.fingerprint
    assert len(first.splits["train"].shards) > 10


def test_record_batches_end_with_lines_and_a_line_may_be_enormous(write, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_TOKENS", 10)
    content = "a b c\n" * 5 + "long " * 1000 + "\n" + "a b c\n" * 5
    prepare_corpus([write("a.txt", content)], [], [], tmp_path / "c")
    reader = pa.ipc.open_file(pa.memory_map(str(tmp_path / "c/train/00000.arrow")))
    batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
    assert [len(batch.column(0).values) for batch in batches] == [12, 1009, 12, 8]
    assert [batch.num_rows for batch in batches] == [3, 3, 3, 2]
    assert reader.schema == pa.schema([("input_ids", pa.list_(pa.int32()))])
    corpus = Corpus.open(tmp_path / "c")
    corpus.verify()
    assert words_of(corpus).count("long") == 1000


def test_several_files_are_read_one_after_another(write, tmp_path):
    paths = [write("b.txt", "b\n"), write("a.txt", "a")]
    prepare_corpus(paths, [], [], tmp_path / "c")
    assert words_of(Corpus.open(tmp_path / "c")) == "b <eos> a <eos>"


def test_reading_maps_the_file_and_copies_nothing(write, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_TOKENS", 1000)
    prepare_corpus(
        [write("a.txt", "a b c\n" * 5000)], [], [], tmp_path / "c", Recipe(shard_tokens=7000)
    )
    tokens = Corpus.open(tmp_path / "c").split("train")
    allocated, handles = pa.total_allocated_bytes(), num_handles()
    views = [tokens.read(start, start + 1000) for start in range(0, len(tokens), 1000)]
    assert pa.total_allocated_bytes() == allocated
    assert num_handles() == handles
    assert np.shares_memory(views[0], tokens.read(0, 1000))
    assert not views[0].flags.owndata
    assert not views[0].flags.writeable
    assert sum(len(view) for view in views) == 20000


def test_output_that_exists_is_refused(write, tmp_path, fails):
    path = write("a.txt", "a\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("keep")
    with fails("full exists and is not empty", "change --output"):
        prepare_corpus([path], [], [], tmp_path / "full")
    with fails("is a file", "change --output"):
        prepare_corpus([path], [], [], path)
    with fails("cannot be written", "change --output"):
        prepare_corpus([path], [], [], path / "below")
    assert (tmp_path / "full" / "precious").read_text() == "keep"
    (tmp_path / "empty").mkdir()
    prepare_corpus([path], [], [], tmp_path / "empty")
    Corpus.open(tmp_path / "empty").verify()


def test_settings_that_cannot_be(write, tmp_path, fails):
    path = write("a.txt", "a\n")
    with fails("no training text", "--train"):
        prepare_corpus([], [], [], tmp_path / "c")
    with fails("shard_tokens=0", "--shard-tokens"):
        prepare_corpus([path], [], [], tmp_path / "c", Recipe(shard_tokens=0))
    with fails("vocab_size=2", "--vocab-size"):
        prepare_corpus([path], [], [], tmp_path / "c", Recipe(vocab_size=2))


def test_penn_treebank_counts_are_the_published_ones(shared_data, tmp_path):
    train, valid, test = (
        [shared_data / "ptb" / f"ptb.{name}.txt"] for name in ("train", "valid", "test")
    )
    manifest = prepare_corpus(train, valid, test, tmp_path / "ptb")
    found = {name: split.tokens for name, split in manifest.splits.items()}
    assert found == {"train": 929_589, "valid": 73_760, "test": 82_430}
    assert manifest.vocabulary.words == 10_000
