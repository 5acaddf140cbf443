"""The sections of the page that show words: which moved, and the table as it stands."""

from collections.abc import Iterable, Mapping

from launcher.report.markup import (
    Html,
    element,
    join,
    note,
    percent,
    picture_if_drawn,
    table,
    whole,
    word,
    words,
)
from launcher.report.words import (
    Axis,
    MovedWord,
    TableChange,
    TableHistory,
    Vocabulary,
    busiest_lines,
)
from lightrnn.table import SPARE

NUM_CHANGES = 6
"""Reallocations whose moved words are listed, the latest first."""


def moves_section(history: TableHistory | None) -> Html:
    """List the words that moved most often, and those of the latest reallocations."""
    if history is None:
        return note("The word tables or the vocabulary of this run are not there yet.")
    if not history.changes:
        return note(f"One table so far (version {history.version}): no word has moved.")
    parts = []
    if history.restless:
        parts += [
            element("h3", "Moved most often"),
            table(
                ["Word", "Count", "Moves", "Cell now", "With it in its row"],
                [
                    [
                        word(restless.word),
                        whole(restless.count),
                        whole(restless.num_moves),
                        _cell(restless.cell),
                        _words(restless.neighbours),
                    ]
                    for restless in history.restless
                ],
                numeric="tnn",
            ),
        ]
    latest = history.changes[: -NUM_CHANGES - 1 : -1]
    parts += [_change(change, is_open=not place) for place, change in enumerate(latest)]
    if len(history.changes) > len(latest):
        parts.append(note(f"{len(history.changes) - len(latest)} earlier changes are left out."))
    return join(parts)


def _change(change: TableChange, is_open: bool) -> Html:
    """List the most frequent words that one reallocation moved."""
    title = (
        f"Table {change.old_version} to table {change.new_version}: "
        f"{whole(change.num_moved)} words moved, the most frequent of them"
    )
    content = (
        table(
            ["Word", "Count", "Cell", "Left", "Joined"],
            [
                [
                    word(moved.word),
                    whole(moved.count),
                    join([_cell(moved.old_cell), " → ", _cell(moved.new_cell)]),
                    _neighbours(moved, moved.old_cell, moved.old_neighbours),
                    _neighbours(moved, moved.new_cell, moved.new_neighbours),
                ]
                for moved in change.moved
            ],
            numeric="tn",
        )
        if change.moved
        else note("None.")
    )
    details = element("summary", title) + content
    return Html(f"<details{' open' if is_open else ''}>{details}</details>\n")


def _neighbours(moved: MovedWord, cell: tuple[int, int], neighbours: Iterable[str]) -> Html:
    index = cell[0 if moved.axis == "row" else 1]
    return join([element("span", f"{moved.axis} {index}", class_="quiet"), _words(neighbours)], " ")


def _words(texts: Iterable[str]) -> Html:
    return element("span", words(texts), class_="words")


def _cell(cell: tuple[int, int]) -> Html:
    return element("span", f"({cell[0]}, {cell[1]})", class_="cells")


def table_section(
    history: TableHistory | None, vocabulary: Vocabulary | None, pictures: Mapping[str, bytes]
) -> Html:
    """Show the current table as a heat map, and its busiest rows and columns as words."""
    if history is None or vocabulary is None:
        return note("The word tables or the vocabulary of this run are not there yet.")
    num_spare = int((history.table.word_at_cell == SPARE).sum())
    parts = [
        picture_if_drawn(
            pictures,
            "word_table",
            "Heat map of the word table",
            f"Table version {history.version}: how often each cell's word occurs in the training "
            "text, and the share of all tokens that each row and column holds."
            + (f" {whole(num_spare)} cells are spare (pale red)." if num_spare else ""),
        )
    ]
    axes: tuple[Axis, ...] = ("row", "column")
    for axis in axes:
        lines = busiest_lines(history.table, vocabulary, axis)
        parts += [
            element("h3", f"The {len(lines)} {axis}s with most tokens"),
            table(
                [axis.capitalize(), "Tokens", "Words", "Most frequent words"],
                [
                    [line.index, percent(line.share), whole(line.num_words), _words(line.words)]
                    for line in lines
                ],
                numeric="nnn",
            ),
        ]
    return join(parts)
