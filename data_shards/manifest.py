"""The manifest: what a corpus folder holds, and the checksums that prove it."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from data_shards.errors import CorpusError
from data_shards.files import HashedFile
from data_shards.vocabulary import EOS, UNK
from data_shards.words import Normalization, TextOptions, Tokenizer

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
VOCABULARY_FILE = "vocabulary.arrow"

Part = TypeVar("Part")


@dataclass(frozen=True)
class Tokenization:
    """How text became words.

    Attributes:
        name: `whitespace`, words between ASCII blanks, or `word`, of running text (see `words`).
        lowercase: whether the text was lower-cased.
        normalize: `nfc` where characters were composed, else `none`.
        end_of_sentence: the entry that ends every line.
        unknown: the entry that stands for words not in the vocabulary.
    """

    name: str = "whitespace"
    lowercase: bool = False
    normalize: str = "none"
    end_of_sentence: str = EOS
    unknown: str = UNK

    @property
    def options(self) -> TextOptions:
        """The options that find the words of other text, a prompt for instance, the same way.

        Raises:
            CorpusError: the tokenizer or normalisation is none that there is.
        """
        return TextOptions(
            tokenizer=cast(Tokenizer, self.name),
            lowercase=self.lowercase,
            normalize=cast(Normalization, self.normalize),
        )


@dataclass(frozen=True)
class VocabularyFile:
    """The vocabulary's file.

    Attributes:
        file: path inside the corpus folder.
        words: V.
        eos_id: id of `<eos>`, so that reading tokens needs no vocabulary in memory.
        unk_id: id of `<unk>`.
        sha256: checksum of the file.
    """

    file: str
    words: int
    eos_id: int
    unk_id: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """One file of tokens: path inside the corpus folder, lines, tokens, size and checksum."""

    file: str
    rows: int
    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of one split in reading order, and their sums."""

    tokens: int
    rows: int
    unknown_tokens: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """What a corpus folder holds.

    Attributes:
        tokenization: how text became words.
        vocabulary: the vocabulary's file.
        splits: `train`, and `valid` and `test` where there are any.
    """

    tokenization: Tokenization
    vocabulary: VocabularyFile
    splits: dict[str, Split]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all the rest: equal for corpora that are equal to the byte."""
        return fingerprint_of(self._content())

    def save(self, path: Path) -> None:
        """Write the manifest as JSON, flushed to the disk."""
        content = self._content() | {"fingerprint": self.fingerprint}
        with HashedFile(path) as file:
            file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """Read what `save` wrote.

        Raises:
            CorpusError: the file is missing or damaged, lacks a field, was written in a newer
                format, or does not match its fingerprint.
        """
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CorpusError(
                f"{path} cannot be read ({error}), expected the manifest of a corpus; "
                "prepare the corpus again"
            ) from error
        if not isinstance(content, dict):
            raise CorpusError(f"{path} is not an object; prepare the corpus again")
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise CorpusError(
                f"{path} has format_version {version}, expected {FORMAT_VERSION}; "
                "upgrade lightrnn or prepare the corpus again"
            )
        try:
            manifest = cls(
                part_from(Tokenization, content["tokenization"]),
                part_from(VocabularyFile, content["vocabulary"]),
                {name: split_from(split) for name, split in content["splits"].items()},
            )
            _ = manifest.tokenization.options  # raises where they are none that there are
            fingerprint = content.pop("fingerprint")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorpusError(
                f"{path} lacks a field or holds a wrong one ({error!r}), expected the manifest of "
                "a corpus; prepare the corpus again"
            ) from error
        if fingerprint != fingerprint_of(content):
            raise CorpusError(
                f"{path} has the fingerprint {fingerprint}, expected "
                f"{fingerprint_of(content)}: it was changed; prepare the corpus again"
            )
        return manifest

    def _content(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def fingerprint_of(content: dict[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON: sorted keys, no blanks, UTF-8."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def split_from(content: dict[str, Any]) -> Split:
    """Build a split from JSON; `ValueError` where its sums are not those of its shards."""
    shards = tuple(part_from(Shard, shard) for shard in content["shards"])
    split = part_from(Split, content | {"shards": shards})
    tokens, rows = sum(shard.tokens for shard in shards), sum(shard.rows for shard in shards)
    if (split.tokens, split.rows) != (tokens, rows):
        raise ValueError(
            f"{split.tokens} tokens in {split.rows} rows, shards hold {tokens}, {rows}"
        )
    return split


def part_from(kind: type[Part], content: dict[str, Any]) -> Part:
    """Build one of the dataclasses above from JSON, each field of its declared type.

    Raises:
        KeyError, TypeError, ValueError: a field is missing, of another type, or unsafe.
    """
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]
        value: Any = content[field.name]
        expected = tuple if field.name == "shards" else field.type
        if type(value) is not expected:
            raise TypeError(f"{field.name}={value!r}, expected {field.type}")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{field.name}={value}, expected 0 or more")
        if field.name == "file":
            place = PurePosixPath(str(value))
            if place.is_absolute() or ".." in place.parts:
                raise ValueError(f"file={value!r}, expected a path inside the corpus folder")
        values[field.name] = value
    return kind(**values)
