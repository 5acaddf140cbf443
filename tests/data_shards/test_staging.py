import dataclasses
import errno
from pathlib import Path

import pytest

from data_shards import stage_shards
from data_shards.files import HashedFile


@pytest.fixture
def shards(small_corpus):
    return small_corpus.manifest.splits["train"].shards


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "disk" / "fingerprint"


def files_in(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_copies_are_whole_and_read_in_place_of_the_corpus(small_corpus, shards, folder):
    assert len(shards) == 3
    whole = small_corpus.split("train").read(0, 16).tolist()
    num_bytes = stage_shards(small_corpus.path, shards[:2], folder)
    assert num_bytes == sum(shard.bytes for shard in shards[:2])
    assert files_in(folder) == ["train/00000.arrow", "train/00001.arrow"]
    for shard in shards[:2]:
        assert (folder / shard.file).read_bytes() == (small_corpus.path / shard.file).read_bytes()
        (small_corpus.path / shard.file).unlink()
    copied = small_corpus.with_copies(folder, shards[:2])
    assert copied.split("train").read(0, 16).tolist() == whole
    assert copied.split("train").count_ids().sum() == 16
    assert copied.fingerprint == small_corpus.fingerprint


def test_copies_that_are_there_are_kept(small_corpus, shards, folder):
    stage_shards(small_corpus.path, shards, folder)
    before = [(folder / shard.file).stat() for shard in shards]
    (small_corpus.path / shards[0].file).unlink()
    assert stage_shards(small_corpus.path, shards, folder) == 0
    assert [(folder / shard.file).stat() for shard in shards] == before


def test_copies_that_are_damaged_are_made_again(small_corpus, shards, folder):
    stage_shards(small_corpus.path, shards, folder)
    one, other, kept = (folder / shard.file for shard in shards)
    content = bytearray(one.read_bytes())
    content[len(content) // 2] ^= 1
    one.write_bytes(content)
    other.write_bytes(other.read_bytes()[:-1])
    before = kept.stat()
    num_bytes = stage_shards(small_corpus.path, shards, folder)
    assert num_bytes == shards[0].bytes + shards[1].bytes
    for shard in shards:
        assert (folder / shard.file).read_bytes() == (small_corpus.path / shard.file).read_bytes()
    assert kept.stat() == before
    assert len(files_in(folder)) == 3


def test_a_damaged_shard_gets_no_copy(small_corpus, shards, folder, fails):
    path = small_corpus.path / shards[1].file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with fails(str(path), "SHA-256", "was changed"):
        stage_shards(small_corpus.path, shards, folder)
    assert files_in(folder) == ["train/00000.arrow"]
    path.unlink()
    with fails(str(path), "cannot be found"):
        stage_shards(small_corpus.path, shards, folder)


def test_no_room_is_told_and_leaves_nothing_behind(
    small_corpus, shards, folder, fails, monkeypatch
):
    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HashedFile, "write", full)
    with fails(str(folder), "No space left on device", "data.stage_dir", f"{shards[0].bytes} byt"):
        stage_shards(small_corpus.path, shards, folder)
    assert files_in(folder) == []


def test_a_place_that_is_no_folder(small_corpus, shards, folder, fails):
    folder.parent.write_text("a file")
    with fails(str(folder), "Not a directory", "data.stage_dir"):
        stage_shards(small_corpus.path, shards, folder)


def test_copies_that_vanish_are_missed(small_corpus, shards, folder, fails):
    stage_shards(small_corpus.path, shards, folder)
    (folder / shards[1].file).unlink()
    with fails("00001.arrow", "cannot be found"):
        small_corpus.with_copies(folder, shards)
    with fails("00000.arrow", "expected 1"):
        small_corpus.with_copies(folder, [dataclasses.replace(shards[0], bytes=1)])
