import json
from dataclasses import FrozenInstanceError

import pytest

from data_shards import TextOptions
from data_shards.manifest import Manifest, Tokenization, fingerprint_of


@pytest.fixture
def change(small_corpus):
    """Return a function that changes the manifest's JSON and loads it again."""

    def load_changed(edit, *, sign=True):
        path = small_corpus.path / "manifest.json"
        content = json.loads(path.read_text())
        edit(content)
        if sign:
            content.pop("fingerprint", None)
            content["fingerprint"] = fingerprint_of(content)
        path.write_text(json.dumps(content))
        return Manifest.load(path)

    return load_changed


def test_load_gives_back_what_was_saved(small_corpus, change):
    loaded = change(lambda content: None)
    assert loaded == small_corpus.manifest
    assert loaded.fingerprint == small_corpus.fingerprint
    with pytest.raises(FrozenInstanceError):
        loaded.vocabulary.words = 1


def test_layout_of_the_file(small_corpus):
    content = json.loads((small_corpus.path / "manifest.json").read_text())
    assert content["format_version"] == 1
    assert content["tokenization"] == {
        "name": "whitespace",
        "lowercase": False,
        "normalize": "none",
        "end_of_sentence": "<eos>",
        "unknown": "<unk>",
    }
    assert set(content["vocabulary"]) == {"file", "words", "eos_id", "unk_id", "sha256"}
    assert set(content["splits"]["train"]["shards"][0]) == {
        "file",
        "rows",
        "tokens",
        "bytes",
        "sha256",
    }
    assert content["fingerprint"] == small_corpus.fingerprint


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda c: c.update(format_version=2), "format_version 2, expected 1; upgrade"),
        (lambda c: c.pop("format_version"), "format_version None"),
        (lambda c: c.pop("vocabulary"), "'vocabulary'"),
        (lambda c: c["vocabulary"].pop("sha256"), "'sha256'"),
        (lambda c: c["vocabulary"].update(words="10"), "words='10'"),
        (lambda c: c["vocabulary"].update(words=True), "words=True"),
        (lambda c: c["vocabulary"].update(words=-1), "words=-1"),
        (lambda c: c["vocabulary"].update(file="../x"), "inside the corpus folder"),
        (lambda c: c["splits"]["train"]["shards"][0].update(file="/x"), "inside the corpus folder"),
        (lambda c: c["splits"]["train"]["shards"].pop(), "shards hold"),
        (lambda c: c.update(splits=[]), "lacks a field"),
    ],
)
def test_manifest_that_cannot_be_used(change, fails, edit, part):
    with fails("manifest.json", part):
        change(edit)


def test_changed_manifest_does_not_match_its_fingerprint(change, fails):
    with fails("fingerprint", "was changed"):
        change(lambda c: c["vocabulary"].update(words=99), sign=False)
    with fails("fingerprint"):
        change(lambda c: c.pop("fingerprint"), sign=False)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_damaged_manifest(tmp_path, fails, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with fails("manifest.json", "prepare the corpus again"):
        Manifest.load(path)


def test_tokenization_gives_the_options_for_prompts(change):
    def compose(content):
        content["tokenization"].update(name="word", lowercase=True, normalize="nfc")

    manifest = change(compose)
    options = TextOptions(tokenizer="word", lowercase=True, normalize="nfc")
    assert manifest.tokenization.options == options
    assert (
        manifest.fingerprint
        != Manifest(
            Tokenization("word", lowercase=True), manifest.vocabulary, manifest.splits
        ).fingerprint
    )


@pytest.mark.parametrize("wrong", [{"name": "bpe"}, {"normalize": "nfd"}])
def test_tokenization_that_there_is_none_of(change, fails, wrong):
    with fails("manifest.json", *wrong.values()):
        change(lambda content: content["tokenization"].update(wrong))
