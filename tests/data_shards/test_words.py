import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_shards import TextOptions, words_of
from data_shards.words import rewritten

BLANK = "\u200b"
"""The one character that separates words and is not white space to Python."""

TRICKY = st.text(
    st.sampled_from("aZé1٣_'’-.,:;!(\n\v\r\t \u00a0\u2028\u3000\u200b\u200d\u00ad\u200f")
    | st.sampled_from("\u0301\u0338\ufe0f東あアーกШσΣİ🇩🇪😀👩🏽₂½€=\u0600")
    | st.characters(exclude_categories=["Cs"])
)

TextOption = st.builds(
    TextOptions,
    tokenizer=st.sampled_from(["whitespace", "word"]),
    lowercase=st.booleans(),
    normalize=st.sampled_from(["none", "nfc"]),
)


def without_blanks(text: str) -> str:
    return "".join(
        c for c in text if not ((c.isspace() and c not in "\x1c\x1d\x1e\x1f") or c == BLANK)
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't panic.", "Don't|panic|."),
        ("it’s well-known, e-mail!", "it’s|well-known|,|e-mail|!"),
        ("'quoted' rock-'n'-roll -5 - x-", "'|quoted|'|rock|-|'|n|'|-|roll|-|5|-|x|-"),
        ("1,000.50 at 12:30, v1.2.3.", "1,000.50|at|12:30|,|v1.2.3|."),
        ("3rd x86-64 snake_case B2B m²", "3rd|x86-64|snake_case|B2B|m²"),
        ("end.Next U.S. a:b", "end|.|Next|U|.|S|.|a|:|b"),
        ("(€5...) #tag @me", "(|€|5|.|.|.|)|#|tag|@|me"),
        ("e\u0301te\u0301 x\u0301!\u0301", "e\u0301te\u0301|x\u0301|!\u0301"),
        ("no\u00a0break\u3000wide\u200bzero\u2028line", "no|break|wide|zero|line"),
        ("co\u00adoperate می\u200cخواهم", "co\u00adoperate|می\u200cخواهم"),
        ("東京タワーへ行く。", "東|京|タワー|へ|行|く|。"),
        ("нет Straße 한국어 हिन्दी", "нет|Straße|한국어|हिन्दी"),
        ("😀😀👩🏽\u200d🚀❤️🇩🇪🇫🇷", "😀|😀|👩🏽\u200d🚀|❤️|🇩🇪|🇫🇷"),
    ],
)
def test_words_of_running_text(text, words):
    assert words_of(text, TextOptions(tokenizer="word")) == words.split("|")


@given(TRICKY, TextOption)
def test_words_found_again_are_the_same(text, options):
    words = words_of(text, options)
    assert words_of(" ".join(words), options) == words
    assert all(words)


@given(TRICKY)
def test_nothing_but_blanks_is_lost_and_no_word_holds_one(text):
    words = words_of(text, TextOptions(tokenizer="word"))
    assert "".join(words) == without_blanks(text)
    assert all(word == without_blanks(word) for word in words)


@given(st.lists(TRICKY), TextOption)
def test_text_cut_at_ascii_blanks_has_the_same_words(texts, options):
    together = [word for text in texts for word in words_of(text, options)]
    assert words_of(" ".join(texts), options) == together


@given(TRICKY.filter(lambda text: "\x00" not in text), st.booleans())
def test_ends_of_lines_stay(text, lowercase):
    options = TextOptions("word", lowercase)
    lines = rewritten(text.encode(), options).split(b"\n")
    assert [b" ".join(line.split()).decode() for line in lines] == [
        " ".join(words_of(line, options)) for line in text.split("\n")
    ]
    assert rewritten(text.encode(), options).count(b"\v") == text.count("\v")


@given(TRICKY)
def test_normalized_words_are_composed(text):
    options = TextOptions(lowercase=True, normalize="nfc")
    words = words_of(text, options)
    assert words == [unicodedata.normalize("NFC", word) for word in words]
    assert words_of("J\u030c e\u0301", options) == ["ǰ", "é"]


def test_options_and_text_that_cannot_be(fails):
    with fails("tokenizer='bpe'", "whitespace or word", "--tokenizer"):
        TextOptions(tokenizer="bpe")
    with fails("normalize='nfd'", "none or nfc", "--normalize"):
        TextOptions(normalize="nfd")
    with fails("on_bad_bytes='skip'", "error or replace", "--on-bad-bytes"):
        TextOptions(on_bad_bytes="skip")
    with fails("'\\udcff' at character 4", "UTF-8"):
        words_of("ok \udcff", TextOptions())
