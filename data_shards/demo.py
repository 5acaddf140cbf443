"""A corpus of real English without a download: what Python's standard library says of itself.

Docstrings, comments and the language reference (`pydoc_data.topics`) of the running Python become
one sentence a line, lower-cased, with punctuation marks as words of their own. The library's tests
are read too where they are installed: a third of the text comes from them.
"""

import ast
import hashlib
import importlib.util
import inspect
import os
import re
import sysconfig
import tempfile
import warnings
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data_shards.errors import CorpusError
from data_shards.manifest import Manifest
from data_shards.pool import Report
from data_shards.prepare import prepare_corpus
from data_shards.recipe import Recipe
from data_shards.words import TextOptions

DEMO_VOCAB_SIZE = 10_000

EXCLUDED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",  # comments there are tables of characters
        "lib-dynload",
        "pydoc_data",  # read by its content, see `topics_text`
        "site-packages",
    }
)

COMMENT = re.compile(r"\s*#[#!:]*(.*)")
WORD = re.compile(r"\d+(?:[.,]\d+)*(?!\w)|\w+(?:['’-]\w+)*|[^\w\s]")
ALPHABETIC = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(`*]*[A-Z])")
MARKUP = re.compile(r":[a-z:]+:(?=`)|[`*]+|\[\w+\]_")
NOT_PROSE = re.compile(r"\s*(>>>|\.\.\.|\.\. |[|+=~^#$%<>{}\[\]\\-]{2,})")

SHORTEST_SENTENCE_WORDS = 3
LEAST_ALPHABETIC_SHARE = 0.5
"""Sentences with fewer words, or a smaller share of plain words, are code or tables."""

SPLIT_OF_PART = {0: "test", 1: "valid"}
"""Of 20 parts of the documents, by a hash of their names, these go to test and validation."""

NUM_PARTS = 20


@dataclass(frozen=True)
class DemoText:
    """Lines of text of each split; no line occurs twice."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


def write_demo_corpus(
    output: Path,
    *,
    vocab_size: int | None = DEMO_VOCAB_SIZE,
    on_progress: Report = lambda line: None,
) -> Manifest:
    """Write a corpus folder of the standard library's English.

    Args:
        output: the corpus folder to write; it must not exist or be empty.
        vocab_size: number of entries at most.
        on_progress: called with a line of text now and then.

    Raises:
        CorpusError: this Python has no sources of its library, or the output cannot be written.
    """
    text = demo_text()
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, lines in (("train", text.train), ("valid", text.valid), ("test", text.test)):
            paths[name] = Path(folder) / f"{name}.txt"
            paths[name].write_text("".join(f"{line}\n" for line in lines), "utf-8", newline="\n")
        return prepare_corpus(
            [paths["train"]],
            [paths["valid"]],
            [paths["test"]],
            output,
            Recipe(TextOptions(lowercase=True), vocab_size),
            on_progress=on_progress,
        )


def demo_text(library: Path | None = None) -> DemoText:
    """Return the English of the standard library, split by documents.

    A document, a module or a chapter of the reference, goes to a split as a whole, by a hash of its
    name. A line that occurs in several documents is kept where it occurs first, training text
    before the others, so that nothing to be predicted was seen.

    Args:
        library: folder of the library; None means that of the running Python.

    Raises:
        CorpusError: the folder has no Python sources.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    documents = dict(sorted(library_documents(library)))
    if not documents:
        raise CorpusError(
            f"{library} has no Python sources, expected the standard library; use a Python that "
            "was installed with its sources, or prepare a corpus from other text"
        )
    seen: set[str] = set()
    lines: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for split, kept in lines.items():
        for name, paragraphs in documents.items():
            if split_of(name) == split:
                for line in sentences(paragraphs):
                    if line not in seen:
                        seen.add(line)
                        kept.append(line)
    return DemoText(*(tuple(kept) for kept in lines.values()))


def split_of(document: str) -> str:
    """Return the split that a document belongs to, by a hash of its name."""
    part = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % NUM_PARTS
    return SPLIT_OF_PART.get(part, "train")


def library_documents(library: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the paragraphs of every module and every chapter of the reference."""
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in EXCLUDED_FOLDERS]
        for path in (Path(folder) / name for name in files if name.endswith(".py")):
            name = path.relative_to(library).with_suffix("").as_posix()
            yield name, module_paragraphs(path)
    topics = library / "pydoc_data" / "topics.py"
    if topics.exists():
        for name, text in topics_text(topics).items():
            yield f"topics/{name}", text_paragraphs(text)


def topics_text(path: Path) -> dict[str, str]:
    """Return the chapters of the language reference by name, from the one literal in its file."""
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            chapters: dict[str, str] = ast.literal_eval(statement.value)
            return chapters
    return {}


def module_paragraphs(path: Path) -> list[str]:
    """Return the paragraphs of a module's docstrings, then those of its comments."""
    try:
        source = importlib.util.decode_source(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []  # some files of the library are templates, or wrong on purpose
    paragraphs = []
    string_lines: set[int] = set()
    for node in nodes_over_lines(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            paragraphs += text_paragraphs(ast.get_docstring(node) or "")
        elif isinstance(node, ast.Constant | ast.JoinedStr):
            string_lines.update(range(node.lineno + 1, (node.end_lineno or 0) + 1))
    return paragraphs + list(comment_paragraphs(source, string_lines))


def nodes_over_lines(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that take more than one line: few of them, so this is much of `ast.walk`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [
            child
            for child in reversed(list(ast.iter_child_nodes(node)))
            if getattr(child, "lineno", 0) != getattr(child, "end_lineno", 1)
        ]


def text_paragraphs(text: str) -> list[str]:
    """Split a docstring or chapter at empty lines, without examples, tables and headings' lines."""
    paragraphs: list[list[str]] = [[]]
    for line in inspect.cleandoc(text).split("\n"):
        if not line.strip():
            paragraphs.append([])
        elif NOT_PROSE.match(line):
            paragraphs[-1].clear()
        else:
            paragraphs[-1].append(line.strip())
    return [" ".join(lines) for lines in paragraphs if lines]


def comment_paragraphs(source: str, string_lines: Container[int]) -> Iterator[str]:
    """Yield the comments that have lines of their own; lines that follow one another are one.

    Args:
        source: text of the module.
        string_lines: numbers, from 1, of the lines that begin inside a string. Looking for `#` in
            all others finds what `tokenize` finds, in a tenth of its time.
    """
    lines: list[str] = []
    for number, line in enumerate(source.split("\n"), start=1):
        comment = COMMENT.match(line) if number not in string_lines else None
        text = comment[1].strip() if comment else ""
        if text and not NOT_PROSE.match(text):
            lines.append(text)
        elif lines:
            yield " ".join(lines)
            lines = []
    if lines:
        yield " ".join(lines)


def sentences(paragraphs: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of prose: lower-cased words and punctuation, a blank between them."""
    for paragraph in paragraphs:
        for sentence in SENTENCE_END.split(MARKUP.sub("", paragraph)):
            words = WORD.findall(sentence.lower())
            num_alphabetic = sum(1 for word in words if ALPHABETIC.fullmatch(word))
            if num_alphabetic >= max(SHORTEST_SENTENCE_WORDS, LEAST_ALPHABETIC_SHARE * len(words)):
                yield " ".join(words)
