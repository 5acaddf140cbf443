import pytest

from data_shards import Corpus, demo, demo_text, write_demo_corpus
from data_shards.demo import sentences, split_of

MODULE = '''# A licence that stands in every file of the library.

"""Read and write things. See the `reference` for more of them.

    >>> example = 1

Made for tests.
"""

TEXT = """
# this is not a comment at all
"""
def give_up(): # said beside the code
    """Give up at once."""
    # A comment that runs
    # over two lines.
'''

PROSE = [
    "read and write things .",
    "see the reference for more of them .",
    "made for tests .",
    "give up at once .",
    "a licence that stands in every file of the library .",
    "a comment that runs over two lines .",
]


@pytest.fixture
def library(tmp_path):
    """Return a library of documents that fall into all splits."""
    folder = tmp_path / "library"
    (folder / "site-packages").mkdir(parents=True)
    (folder / "site-packages" / "other.py").write_text('"""Not of the library at all."""')
    (folder / "broken.py").write_text("def (")
    (folder / "pydoc_data").mkdir()
    (folder / "pydoc_data" / "topics.py").write_text(
        "topics = {'assert': 'Assertions are a convenient way.\\n\\n   code >= here\\n'}"
    )
    for number in range(60):
        own = f'\n"""The module of word{number} is here."""\n' if number else ""
        (folder / f"m{number}.py").write_text(own + MODULE)
    return folder


def test_prose_of_a_module(library):
    assert list(sentences(demo.module_paragraphs(library / "m0.py"))) == PROSE


def test_documents_go_to_splits_whole_and_lines_occur_once(library):
    text = demo_text(library)
    assert all((text.train, text.valid, text.test))
    every = [*text.train, *text.valid, *text.test]
    assert len(every) == len(set(every))
    assert set(PROSE) <= set(text.train)
    assert "assertions are a convenient way ." in every
    assert not any("not of the library" in line or "not a comment" in line for line in every)
    for name in ("train", "valid", "test"):
        for line in getattr(text, name):
            if line.startswith("the module of word"):
                assert split_of(f"m{line.split()[3].removeprefix('word')}") == name
    assert demo_text(library) == text


def test_library_without_sources(tmp_path, fails):
    with fails("no Python sources"):
        demo_text(tmp_path)


def test_demo_corpus(library, tmp_path, monkeypatch):
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda name: str(library))
    manifest = write_demo_corpus(tmp_path / "demo", vocab_size=20)
    assert set(manifest.splits) == {"train", "valid", "test"}
    assert manifest.vocabulary.words == 20
    Corpus.open(tmp_path / "demo").verify()


@pytest.mark.slow
def test_demo_corpus_of_this_python(tmp_path):
    manifest = write_demo_corpus(tmp_path / "demo")
    tokens = {name: split.tokens for name, split in manifest.splits.items()}
    assert tokens["train"] > 300_000
    assert 0.02 < tokens["valid"] / sum(tokens.values()) < 0.1
    assert 0.02 < tokens["test"] / sum(tokens.values()) < 0.1
    assert manifest.vocabulary.words == 10_000
