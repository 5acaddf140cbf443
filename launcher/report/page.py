"""Put a run's figures, pictures and words together as one page that needs no other file."""

from collections.abc import Mapping

from launcher.report.markup import Html, element, join, note, whole
from launcher.report.run_data import RunData, number
from launcher.report.run_sections import (
    configuration_section,
    curves_section,
    reallocations_section,
    summary_section,
)
from launcher.report.word_sections import moves_section, table_section
from launcher.report.words import TableHistory, Vocabulary

STYLE = """
:root { color-scheme: light dark; --text: #22262b; --quiet: #5d6570; --page: #fff;
  --edge: #d9dde2; --chip: #f0f2f5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e3e5e8; --quiet: #a0a7b1; --page: #121212; --edge: #383d44; --chip: #24282d; }
  img { filter: invert(.93) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--text);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--edge); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { max-width: 46rem; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .35rem .8rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--edge); }
th { color: var(--quiet); font-weight: 500; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
.cells { white-space: nowrap; font-variant-numeric: tabular-nums; }
.words { display: block; min-width: 15rem; }
.word { display: inline-block; padding: 0 .35em; border-radius: .25em; background: var(--chip);
  white-space: pre; }
dl { display: grid; gap: .9rem 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  margin: 1.25rem 0 0; }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 1rem 0 1.5rem; }
img { display: block; width: 100%; min-width: 34rem; max-width: 60rem; height: auto; }
details { margin-top: .75rem; }
summary { cursor: pointer; padding: .3rem 0; }
pre { overflow-x: auto; padding: 1rem; background: var(--chip); font-size: .8rem; }
"""


def render_page(
    run: RunData,
    history: TableHistory | None,
    vocabulary: Vocabulary | None,
    pictures: Mapping[str, bytes],
) -> str:
    """Return the page as HTML.

    Args:
        run: the records.
        history: the tables as words, None where no table or vocabulary is there yet.
        vocabulary: the words, None where they are missing.
        pictures: PNG by name; what is missing is told in words.
    """
    sections = {
        "summary": ("Summary", summary_section(run)),
        "curves": ("Training", curves_section(run, pictures)),
        "reallocations": ("Reallocations", reallocations_section(run, pictures)),
        "moves": ("Words that moved", moves_section(history)),
        "table": ("Word table", table_section(history, vocabulary, pictures)),
        "configuration": ("Configuration", configuration_section(run)),
    }
    links = (element("a", title, href=f"#{name}") for name, (title, _) in sections.items())
    title = f"LightRNN run {run.name}"
    head = element(
        "head",
        Html('<meta charset="utf-8">\n'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">\n'),
        Html(
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "img-src data:; style-src 'unsafe-inline'\">\n"
        ),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element("h1", title),
        note(_status(run)),
        element("nav", join(links, " ")),
        *(
            element("section", element("h2", title), content, Html("\n"), id=name)
            for name, (title, content) in sections.items()
        ),
    )
    return f'<!doctype html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def _status(run: RunData) -> str:
    """Say in one sentence how far the run is."""
    step, total = number(run.last, "step"), number(run.start, "total_steps")
    if run.end:
        status = f"Finished after {whole(step)} steps."
    else:
        status = f"Not finished: step {whole(step)} of {whole(total)} when this page was written."
    if len(run.starts) > 1:
        num_resumes = len(run.starts) - 1
        status += " Resumed once." if num_resumes == 1 else f" Resumed {num_resumes} times."
    if run.num_unreadable_lines:
        lines = "line" if run.num_unreadable_lines == 1 else "lines"
        status += f" {run.num_unreadable_lines} unreadable {lines} of metrics.jsonl left out."
    return status
