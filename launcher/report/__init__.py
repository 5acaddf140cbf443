"""The report of a run: `report.html`, one page that needs no other file, and its pictures."""

import os
from pathlib import Path

from launcher.report.bars import draw_reallocations
from launcher.report.curves import draw_curves
from launcher.report.heat_map import draw_table
from launcher.report.page import render_page
from launcher.report.run_data import ReportError, read_run
from launcher.report.words import Vocabulary, read_history

__all__ = ["ReportError", "write_report"]


def write_report(run_dir: Path) -> Path:
    """Write `report.html` and `pictures/*.png` into a run directory, finished or still going.

    Args:
        run_dir: the run directory; only `metrics.jsonl` has to be there.

    Returns:
        The path of the page.

    Raises:
        LightRNNError: the directory has no metrics yet, or a table or vocabulary is damaged.
    """
    run = read_run(run_dir)
    pictures = draw_curves(run) | draw_reallocations(run)
    vocabulary = Vocabulary.load(run.vocabulary_path) if run.vocabulary_path else None
    history = read_history(run.table_paths, vocabulary) if vocabulary else None
    if vocabulary and history:
        pictures["word_table"] = draw_table(history.table, vocabulary)
    page = render_page(run, history, vocabulary, pictures)
    (run_dir / "pictures").mkdir(exist_ok=True)
    for name, png in pictures.items():
        _replace(run_dir / "pictures" / f"{name}.png", png)
    _replace(run_dir / "report.html", page.encode("utf-8"))
    return run_dir / "report.html"


def _replace(path: Path, content: bytes) -> None:
    """Write a file under another name first, so that nobody ever reads half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
