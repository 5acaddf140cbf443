"""Build HTML in which nothing goes unescaped, and write numbers as people read them."""

import base64
import html
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

NONE = "–"
"""What stands where a run has not told a value."""

MAX_WORD_LENGTH = 40


class Html(str):
    """Text that is markup already; whatever is not of this type gets escaped."""


def escape(value: object) -> Html:
    """Return markup as it is, and anything else as escaped text."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Put pieces one after the other, each escaped."""
    return Html(separator.join(escape(part) for part in parts))


def element(name: str, *content: object, **attributes: str) -> Html:
    """Return `<name attributes>content</name>`; `class_` stands for `class`."""
    settings = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{settings}>{join(content)}</{name}>")


def table(headers: Sequence[object], lines: Iterable[Sequence[object]], numeric: str = "") -> Html:
    """Return a table that scrolls sideways on a narrow screen.

    Args:
        headers: one a column.
        lines: a value a column each.
        numeric: a letter a column, `n` where numbers stand that are set flush right.
    """
    kinds = [{"class_": "number"} if kind == "n" else {} for kind in numeric.ljust(len(headers))]
    head = (
        element("th", text, scope="col", **kind) for text, kind in zip(headers, kinds, strict=True)
    )
    body = (
        element(
            "tr",
            *(element("td", value, **kind) for value, kind in zip(line, kinds, strict=True)),
        )
        for line in lines
    )
    content = element(
        "table", element("thead", element("tr", *head)), Html("\n"), element("tbody", *body)
    )
    return element("div", content, class_="scroll")


def picture(png: bytes, description: str, caption: object) -> Html:
    """Return a picture that the page carries in itself."""
    data = base64.b64encode(png).decode("ascii")
    image = Html(f'<img src="data:image/png;base64,{data}" alt="{html.escape(description)}">')
    return element("figure", element("div", image, class_="scroll"), element("figcaption", caption))


def picture_if_drawn(
    pictures: Mapping[str, bytes], name: str, description: str, caption: str
) -> Html:
    """Return a picture, nothing where the run has not told enough to draw it."""
    return picture(pictures[name], description, caption) if name in pictures else Html()


def note(text: object) -> Html:
    """Return a sentence in small grey type."""
    return element("p", text, class_="quiet")


def word(text: str) -> Html:
    """Return one word as a chip of its own writing direction, control characters made visible."""
    if len(text) > MAX_WORD_LENGTH:
        text = text[: MAX_WORD_LENGTH - 1] + "…"
    visible = "".join(
        repr(character)[1:-1]
        if unicodedata.category(character) in {"Cc", "Zl", "Zp"}
        else character
        for character in text
    )
    return element("bdi", visible, class_="word")


def words(texts: Iterable[str]) -> Html:
    """Return words side by side."""
    return join((word(text) for text in texts), " ") or Html(NONE)


def whole(value: float) -> str:
    """Write a count: 1,234,567."""
    return f"{value:,.0f}" if math.isfinite(value) else NONE


def decimal(value: float, digits: int = 2) -> str:
    """Write a measurement with a fixed number of decimals: 4.72."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else NONE


def perplexity(value: float) -> str:
    """Write a perplexity to about four digits."""
    return decimal(value, 2 if value < 100 else 1 if value < 10_000 else 0)


def percent(fraction: float) -> str:
    """Write a fraction as percent: 23.4 %."""
    return f"{decimal(100 * fraction, 1)} %" if math.isfinite(fraction) else NONE


def duration(seconds: float) -> str:
    """Write a time: 0.42 s, 3 min 07 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return NONE
    if seconds < 59.5:
        return f"{decimal(seconds, 2 if seconds < 10 else 0)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Write a number of bytes: 1.5 MiB."""
    if not math.isfinite(num_bytes):
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.1f} TiB"
