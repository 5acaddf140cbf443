"""Small corpora for the tests of `data_shards`."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from data_shards import Corpus, CorpusError, Recipe, prepare_corpus

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"

TRAIN = "the cat sat\n\nthe dog sat on the mat\r\nzebra apple cat\n"
VALID = "the zebra flew\n"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the optional folder of published corpora beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the evaluation corpora of ../shared/data are not here")
    return SHARED_DATA


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    """Return a function that writes a file of this name and content."""

    def write_file(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def small_corpus(write: Callable[[str, str], Path], tmp_path: Path) -> Corpus:
    """Return a corpus of four training lines in several shards, and one validation line."""
    prepare_corpus(
        [write("train.txt", TRAIN)],
        [write("valid.txt", VALID)],
        [],
        tmp_path / "corpus",
        Recipe(shard_tokens=5),
    )
    return Corpus.open(tmp_path / "corpus")


@contextmanager
def raises_one_line(*parts: str) -> Iterator[None]:
    with pytest.raises(CorpusError) as caught:
        yield
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    for part in parts:
        assert part in message


@pytest.fixture
def fails() -> Callable[..., AbstractContextManager[None]]:
    """Return a context that wants a `CorpusError` of one line that holds all the parts given."""
    return raises_one_line
