"""Text to words: the options that say how, for files and prompts alike.

The tokenizer `whitespace` takes what stands between ASCII blanks as words. The tokenizer `word` is
for running text as people write it. It reads, in this order:

- a *word*: letters, digits, connectors such as `_`, with the combining marks and format characters
  that follow them. Apostrophes and hyphens inside stay (`don't`, `well-known`, `x86-64`), and so do
  `.`, `,` and `:` between two digits (`1,000.50`, `12:30`);
- a flag: two regional indicators;
- any other character by itself, with its combining marks, skin tone and what a zero-width joiner
  ties to it: a punctuation mark, a symbol, an emoji. Han characters and Hiragana count here, since
  Chinese and Japanese put no blanks between words. Thai, Lao, Khmer and Burmese, which do not
  either, keep the runs that their writers made.

White space of Unicode and the zero-width space separate words and are lost; nothing else is. URLs
and addresses come apart. What is found depends on nothing beyond the blanks around it.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from data_shards.errors import CorpusError

Tokenizer = Literal["whitespace", "word"]
Normalization = Literal["none", "nfc"]
BadBytes = Literal["error", "replace"]

BLANKS = b" \t\n\r\v\f"
"""What separates words, all of it ASCII: the blanks of `bytes.split`, not those of `str.split`."""

IS_BLANK = np.zeros(256, dtype=np.bool_)
IS_BLANK[list(BLANKS)] = True
IS_BLANK.setflags(write=False)

REPLACEMENT = "\ufffd"

LETTER = r"[[\p{L}\p{M}\p{N}\p{Pc}\p{Cf}]--[\p{Han}\p{Hiragana}\u200b]]"
EXTENSION = r"[\p{M}\p{EMod}[\p{Cf}--\u200b]]"
SYMBOL = r"[\S--\u200b]"
TOKEN = regex.compile(
    rf"""
      {LETTER}++ (?: (?: ['’‐‑-] | (?<=\p{{Nd}})[.,:](?=\p{{Nd}}) ) {LETTER}++ )*+
    | \p{{RI}}{{2}}
    | {SYMBOL} {EXTENSION}*+ (?: (?<=\u200d) {SYMBOL} {EXTENSION}*+ )*+
    | [\n\v]  # ends of lines stay
    """,
    regex.VERSION1 | regex.VERBOSE,
)


@dataclass(frozen=True)
class TextOptions:
    """How text becomes words; the same for all splits of a corpus.

    Attributes:
        tokenizer: `whitespace`, words stand between ASCII blanks; `word`, see above.
        lowercase: whether to lower-case the text.
        normalize: `nfc` composes characters that can be written in several ways (UAX #15).
        on_bad_bytes: `replace` puts U+FFFD for NUL and for bytes that are not UTF-8.
        column: the column of tables and JSON lines to read; None takes `text`, or the only one.

    Raises:
        CorpusError: one of them has no such choice.
    """

    tokenizer: Tokenizer = "whitespace"
    lowercase: bool = False
    normalize: Normalization = "none"
    on_bad_bytes: BadBytes = "error"
    column: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (
            ("tokenizer", Tokenizer),
            ("normalize", Normalization),
            ("on_bad_bytes", BadBytes),
        ):
            choices, found = get_args(kind), getattr(self, name)
            if found not in choices:
                raise CorpusError(
                    f"{name}={found!r}, expected {' or '.join(choices)}; "
                    f"change --{name.replace('_', '-')}"
                )


def words_of(text: str, options: TextOptions) -> list[str]:
    """Return the words of a text, a prompt for instance, as those of a corpus are found.

    Raises:
        CorpusError: the text holds surrogates, which are no characters.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"the text holds {error.object[error.start]!a} at character {error.start + 1}, "
            "expected text that can be written as UTF-8; change it"
        ) from error
    return [word.decode() for word in rewritten(content, options).split()]


def rewritten(text: bytes, options: TextOptions, *, tokenized: bool = False) -> bytes:
    """Lower-case, normalise and tokenise UTF-8 text, as the options say: words between blanks.

    Cutting the text at any ASCII blank and rewriting the pieces gives the same words.

    Args:
        text: valid UTF-8.
        options: how text becomes words.
        tokenized: whether words stand between blanks already, whatever the tokenizer.
    """
    if options.lowercase or options.normalize == "nfc":
        characters = text.decode()
        if options.lowercase:
            characters = characters.lower()
        if options.normalize == "nfc":  # after lower-casing, which may make what can be composed
            characters = unicodedata.normalize("NFC", characters)
        text = characters.encode()
    if options.tokenizer == "word" and not tokenized:
        text = tokenized_text(text)
    return text


def tokenized_text(text: bytes) -> bytes:
    """Put a blank between the words of running text, and keep `\\n` and `\\v`.

    What stands between two ASCII blanks is looked at once, however often it occurs.
    """
    if not text:
        return text
    blank = IS_BLANK[np.frombuffer(text, dtype=np.uint8)]
    begins = np.flatnonzero(~blank[1:] & blank[:-1]) + 1
    bounds = np.concatenate(([0], begins, [len(text)])).astype(np.int32)
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(text)]
    chunks = pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)
    encoded = chunks.dictionary_encode()
    found = [
        "".join(f"{word} " for word in TOKEN.findall(entry.decode()))
        for entry in encoded.dictionary.to_pylist()
    ]
    running = pa.array(found, pa.large_string()).take(encoded.indices)
    return joined(running, "").replace(b"\n ", b"\n")


def joined(strings: pa.Array, separator: str) -> bytes:
    """Return a `large_string` array as one text, with a separator between its entries."""
    whole = pa.LargeListArray.from_arrays([0, len(strings)], strings)
    separators = pa.scalar(separator, pa.large_string())
    content: bytes = pc.binary_join(whole, separators)[0].as_buffer().to_pybytes()
    return content


def checked(text: bytes, on_bad_bytes: BadBytes, place: Callable[[int], str], option: str) -> bytes:
    """Return text that is UTF-8 without NUL bytes, as it is or repaired.

    Args:
        text: where it is cut, it is cut at an ASCII character.
        on_bad_bytes: whether to raise or to put U+FFFD.
        place: says where a byte of the text stands, for errors.
        option: the option to name in errors, `--train` for instance.

    Raises:
        CorpusError: the text is not UTF-8 or holds a NUL byte.
    """
    fault_at = text.find(b"\0")
    fault = "a NUL byte"
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            if not 0 <= fault_at < error.start:
                fault_at = error.start
                fault = f"byte 0x{text[fault_at]:02x}, which is not UTF-8 ({error.reason})"
    if fault_at < 0:
        return text
    if on_bad_bytes == "replace":
        return text.decode(errors="replace").replace("\0", REPLACEMENT).encode()
    raise CorpusError(
        f"{place(fault_at)}: {fault}, expected UTF-8 text; change {option}, or give "
        "--on-bad-bytes replace"
    )
