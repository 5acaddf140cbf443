"""The report: everything a run has told is on the page, and nothing a run says can break it."""

import json
import math
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pytest

from allocation.phase import ReallocationReport, Seconds
from allocation.trust_region import Try
from launcher.report import write_report
from launcher.report.bars import lower_bounds
from launcher.report.curves import smooth
from launcher.report.markup import Html, duration, element, size, word
from launcher.report.run_data import read_run
from launcher.report.words import Vocabulary, busiest_lines, read_history
from lightrnn.errors import LightRNNError
from lightrnn.table import WordTable

EVIL_WORD = "<script>alert(1)</script>"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
STEPS_PER_EPOCH = 40
SECTIONS = ("summary", "curves", "reallocations", "moves", "table", "configuration")
PICTURES = ("perplexity", "row_column_loss", "pace", "reallocations", "word_table")


class FakeRun:
    """Writes run directories as the trainer does, with made-up figures.

    One epoch has 40 steps; a reallocation follows each epoch but the last, and moves the
    words by swapping two of them, `word1` among them every time.
    """

    def __init__(self, directory: Path, words: list[str], counts: list[int]) -> None:
        self.directory = directory
        self.words = words
        self.num_rows = math.isqrt(len(words) - 1) + 1
        (directory / "tables").mkdir(parents=True)
        (directory / "config.toml").write_text('[train]\nseed = 3\nname = "<b>bold</b>"\n')
        content = pa.table({"word": words, "count": pa.array(counts, pa.int64())})
        with pa.ipc.new_file(str(directory / "vocabulary.arrow"), content.schema) as writer:
            writer.write_table(content)
        self.cells = np.arange(len(words))
        self.save_table(0)

    def save_table(self, version: int) -> None:
        table = WordTable.from_cells(self.cells, self.num_rows, self.num_rows)
        table.save(self.directory / "tables" / f"table-{version:04d}.arrow")

    def log(self, event: str, step: int, version: int, **values: Any) -> None:
        record = {"event": event, "step": step, "epoch": step / STEPS_PER_EPOCH}
        record |= {"table_version": version, **values}
        with (self.directory / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps(record) + "\n")

    def start(self, step: int = 0, version: int = 0, world_size: int = 2) -> None:
        self.log(
            "start",
            step,
            version,
            num_parameters=402_123,
            vocab_size=len(self.words),
            num_rows=self.num_rows,
            num_columns=self.num_rows,
            world_size=world_size,
            num_lanes=32,
            bptt=35,
            steps_per_epoch=STEPS_PER_EPOCH,
            total_steps=3 * STEPS_PER_EPOCH,
            tokens_per_epoch=1000,
            unigram_perplexity=612.5,
            versions={"torch": "2.9", "lightrnn": "0.1.0"},
            device="cpu",
        )

    def train(self, step: int, version: int, loss: float) -> None:
        self.log(
            "train",
            step,
            version,
            loss=loss,
            row_loss=0.6 * loss,
            column_loss=0.4 * loss,
            perplexity=math.exp(min(loss, 50)),
            learning_rate=2e-3,
            grad_norm=1.5,
            tokens_per_second=12_345.0,
            step_seconds_mean=0.2,
            own_seconds_mean=0.1,
            own_seconds_max=0.15 if step % 3 else 0.1,
            slowest_rank=3 if step % 3 else 0,
            elapsed_seconds=float(step),
        )

    def valid(self, step: int, version: int, loss: float) -> None:
        self.log(
            "valid",
            step,
            version,
            loss=loss,
            row_loss=0.6 * loss,
            column_loss=0.4 * loss,
            perplexity=math.exp(loss),
            tokens=500,
            elapsed_seconds=float(step),
        )

    def reallocate(self, step: int, version: int, swapped: int) -> None:
        """Swap `word1` with another, and tell of it in the very fields that the phase returns."""
        self.cells[[1, swapped]] = self.cells[[swapped, 1]]
        self.save_table(version)
        report = self.report(accepted=True)
        self.log(
            "reallocation",
            step,
            version,
            **asdict(report),
            loss_after=5.2,
            valid_perplexity_before=171.25,
            valid_perplexity_after=188.75,
        )

    def report(self, accepted: bool) -> ReallocationReport:
        """Return the fields that the phase returns, after two tries."""
        after = (5.0625, 4.9375) if accepted else (5.0625, 5.03125)
        tries = [
            Try(
                stay_bonus=bonus,
                loss_predicted=4.5,
                held_out_loss=loss,
                objective=4.3,
                lower_bound=4.2,
                gap_percent=0.0123,
                words_moved=2,
                tokens_moved_fraction=0.2,
            )
            for bonus, loss in zip((0.25, 0.5), after, strict=True)
        ]
        return ReallocationReport(
            accepted=accepted,
            solver="exact",
            moves="columns",
            exchange="dense",
            tokens=1000,
            standard_error=0.01,
            loss_before=5.0,
            loss_predicted=4.5,
            solver_objective=4.3,
            lower_bound=4.2,
            gap_percent=0.0123,
            gap_nats=0.1,
            words_moved=2,
            words_moved_fraction=0.02,
            tokens_moved_fraction=0.2,
            held_out_before=5.0,
            held_out_after=after[-1],
            tolerance=0.0,
            tries=tries,
            seconds=Seconds(statistics=12.5, exchange=0.5, solve=75.0, measure=0.1),
            bytes_exchanged=3 * 1024**2,
        )

    def finish(self) -> None:
        """Write a whole run of three epochs and two reallocations."""
        self.start()
        for step in range(1, 3 * STEPS_PER_EPOCH + 1):
            version = (step - 1) // STEPS_PER_EPOCH
            self.train(step, version, 4 + 3 / math.sqrt(step))
            if step % STEPS_PER_EPOCH == 0:
                self.valid(step, version, 5.5 - 0.1 * version)
                if version < 2:
                    self.reallocate(step, version + 1, swapped=50 + version)
        step = 3 * STEPS_PER_EPOCH
        self.log(
            "end",
            step,
            2,
            valid_perplexity=199.25,
            test_perplexity=201.5,
            elapsed_seconds=7500.0,
        )


@pytest.fixture
def fake_run(tmp_path: Path) -> FakeRun:
    words = [EVIL_WORD, "word1", "word2", 'quo"te', "a&b", *(f"word{i}" for i in range(5, 97))]
    counts = [10_000 // (rank + 1) for rank in range(len(words))]
    return FakeRun(tmp_path / "run <one>", words, counts)


class PageReader(HTMLParser):
    """Collects the tags that are open, those that load something, and the sections' names."""

    VOID = frozenset({"meta", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(path: Path) -> tuple[str, PageReader]:
    page = path.read_text("utf-8")
    reader = PageReader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return page, reader


def text_of(page: str) -> str:
    """Return the page without its tags, as a reader sees it before entities are resolved."""
    return re.sub(r"<[^>]*>", "", page)


def test_a_finished_run_is_told_whole(fake_run: FakeRun) -> None:
    fake_run.finish()
    path = write_report(fake_run.directory)
    assert path == fake_run.directory / "report.html"
    page, reader = read_page(path)
    assert tuple(reader.ids) == SECTIONS
    text = text_of(page)
    for fact in ("199.2", "201.5", "612.5", "402,123", "2 h 05 min", "120 of 120", "torch 2.9"):
        assert fact in text
    for fact in ("exact", "0.0123 %", "2 (2.0 %)", "171.2", "188.8", "1 min 15 s", "3.0 MiB"):
        assert fact in text
    assert "Table 1 to table 2: 2 words moved" in text
    assert "Moved most often" in text
    for folder_entry in fake_run.directory.rglob("*"):
        assert "unfinished" not in folder_entry.name


def test_a_slow_rank_is_told(fake_run: FakeRun) -> None:
    fake_run.finish()
    text = text_of(read_page(write_report(fake_run.directory))[0])
    assert "The others waited for rank 3: it was the slowest in" in text
    assert "of a step longer than that of the average rank" in text


def test_tables_that_were_tried_are_told(fake_run: FakeRun) -> None:
    fake_run.start()
    fake_run.reallocate(10, 1, swapped=50)
    fake_run.log("kept", 20, 1, **asdict(fake_run.report(accepted=False)))
    text = text_of(read_page(write_report(fake_run.directory))[0])
    assert "What was tried" in text
    for fact in ("columns", "5.0625", "4.9375", "5.0312", "not taken", "words stay"):
        assert fact in text


def test_the_page_needs_no_other_file(fake_run: FakeRun) -> None:
    fake_run.finish()
    _, reader = read_page(write_report(fake_run.directory))
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in reader.links)
    assert sum(link.startswith("data:") for link in reader.links) == len(PICTURES)
    assert not reader.tags & {"script", "link", "iframe", "object"}


def test_pictures_are_written_as_png_too(fake_run: FakeRun) -> None:
    fake_run.finish()
    write_report(fake_run.directory)
    written = {path.stem: path for path in (fake_run.directory / "pictures").iterdir()}
    assert set(written) == set(PICTURES)
    for path in written.values():
        content = path.read_bytes()
        assert content.startswith(PNG_SIGNATURE)
        assert content.endswith(b"IEND\xaeB`\x82")
        width = int.from_bytes(content[16:20], "big")
        assert width > 1000


def test_words_and_values_are_escaped(fake_run: FakeRun) -> None:
    fake_run.finish()
    fake_run.log("start", 120, 2, device="<img src=x onerror=alert(2)>", world_size=4)
    page, reader = read_page(write_report(fake_run.directory))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "run &lt;one&gt;" in page
    assert not reader.tags & {"script", "b", "one"}


def test_a_run_that_goes_on_is_told_as_far_as_it_is(fake_run: FakeRun) -> None:
    fake_run.start()
    fake_run.train(1, 0, 6.0)
    with (fake_run.directory / "metrics.jsonl").open("a") as lines:
        lines.write('{"event": "train", "step": 2, "ep')
    page, _ = read_page(write_report(fake_run.directory))
    assert "Not finished: step 1 of 120" in page
    assert "unreadable" not in page
    assert "No reallocation has taken place yet." in page
    assert "One table so far (version 0): no word has moved." in page
    assert {path.stem for path in (fake_run.directory / "pictures").iterdir()} == {
        "perplexity",
        "row_column_loss",
        "pace",
        "word_table",
    }


def test_a_run_that_has_just_started_has_a_page(fake_run: FakeRun) -> None:
    fake_run.start()
    page, reader = read_page(write_report(fake_run.directory))
    assert tuple(reader.ids) == SECTIONS
    assert "No training step has been logged yet." in page


def test_metrics_alone_are_enough(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"event": "start", "step": 0, "table_version": 0}\n')
    page, _ = read_page(write_report(tmp_path))
    assert "are not there yet" in page
    assert "config.toml is missing." in page


def test_a_loss_that_is_not_finite_does_not_stop_the_report(fake_run: FakeRun) -> None:
    fake_run.start()
    for step, loss in enumerate([6.0, math.nan, math.inf, 800.0, 5.5], start=1):
        fake_run.train(step, 0, loss)
    fake_run.log("valid", 5, 0, loss=None, perplexity="none")
    with np.errstate(all="raise"):
        write_report(fake_run.directory)


@pytest.mark.parametrize("content", [None, "", "\n", '{"event": "sta'])
def test_without_metrics_the_error_is_one_line(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(LightRNNError) as caught:
        write_report(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "metrics.jsonl" in message
    assert "--run-dir" in message
    assert not (tmp_path / "report.html").exists()


def test_a_vocabulary_of_another_size_is_an_error(fake_run: FakeRun) -> None:
    fake_run.start()
    WordTable.from_cells(np.arange(5), 3, 3).save(
        fake_run.directory / "tables" / "table-0000.arrow"
    )
    with pytest.raises(LightRNNError, match="places 5 words, expected the 97"):
        write_report(fake_run.directory)


def test_what_a_resume_took_back_does_not_count(fake_run: FakeRun) -> None:
    fake_run.start()
    for step in range(1, 11):
        fake_run.train(step, 0, 6.0)
    fake_run.reallocate(10, 1, swapped=50)
    fake_run.train(11, 1, 6.0)
    fake_run.start(step=8, world_size=3)
    fake_run.train(9, 0, 5.0)
    run = read_run(fake_run.directory)
    assert [record["step"] for record in run.train] == list(range(1, 10))
    assert run.reallocations == []
    assert list(run.table_paths) == [0]
    page, _ = read_page(write_report(fake_run.directory))
    assert "2, then 3" in page
    assert "Resumed once." in page


def test_the_wall_time_adds_up_over_starts(fake_run: FakeRun) -> None:
    fake_run.start()
    fake_run.train(30, 0, 6.0)
    fake_run.start(step=30)
    fake_run.train(31, 0, 6.0)
    fake_run.log("valid", 32, 0)
    assert read_run(fake_run.directory).elapsed_seconds == 30 + 31


def test_a_broken_line_inside_is_left_out_and_told(fake_run: FakeRun) -> None:
    fake_run.start()
    with (fake_run.directory / "metrics.jsonl").open("a") as lines:
        lines.write("half a li\n")
    fake_run.train(1, 0, 6.0)
    page, _ = read_page(write_report(fake_run.directory))
    assert "1 unreadable line of metrics.jsonl" in page


def test_moves_are_found_between_tables(fake_run: FakeRun) -> None:
    fake_run.finish()
    vocabulary = Vocabulary.load(fake_run.directory / "vocabulary.arrow")
    history = read_history(read_run(fake_run.directory).table_paths, vocabulary)
    assert history is not None
    first, second = history.changes
    assert [moved.word for moved in first.moved] == ["word1", "word50"]
    assert (first.moved[0].old_cell, first.moved[0].new_cell) == ((0, 1), (5, 0))
    assert first.moved[0].old_neighbours[:3] == [EVIL_WORD, "word2", 'quo"te']
    assert first.moved[0].new_neighbours[0] == "word51"
    assert second.num_moved == 2
    assert [(word.word, word.num_moves) for word in history.restless] == [("word1", 2)]


def test_a_move_inside_a_row_is_told_by_its_columns(fake_run: FakeRun) -> None:
    fake_run.reallocate(1, 1, swapped=2)
    vocabulary = Vocabulary.load(fake_run.directory / "vocabulary.arrow")
    history = read_history(read_run(fake_run.directory).table_paths, vocabulary)
    assert history is not None
    moved = history.changes[0].moved[0]
    assert (moved.word, moved.axis) == ("word1", "column")
    assert moved.old_neighbours[0] == "word11"
    assert moved.new_neighbours[0] == "word12"


def test_the_busiest_rows_come_first(fake_run: FakeRun) -> None:
    vocabulary = Vocabulary.load(fake_run.directory / "vocabulary.arrow")
    table = WordTable.load(fake_run.directory / "tables" / "table-0000.arrow")
    lines = busiest_lines(table, vocabulary, "row")
    assert [line.index for line in lines] == list(range(10))
    assert lines[0].words[:2] == [EVIL_WORD, "word1"]
    assert sum(line.share for line in lines) == pytest.approx(1)
    assert sum(line.num_words for line in lines) == 97


def test_smoothing_begins_anew_with_each_table() -> None:
    values = np.array([1.0] * 300 + [9.0] * 300)
    versions = np.array([0.0] * 300 + [1.0] * 300)
    smoothed = smooth(values, versions)
    np.testing.assert_allclose(smoothed, values)
    one_table = smooth(values, np.zeros(600))
    assert 1 < one_table[300] < 9
    values[10:40] = np.nan
    assert np.isfinite(smooth(values, versions)[[9, 40, 299, 300]]).all()


def test_the_lower_bound_stands_below_the_prediction(fake_run: FakeRun) -> None:
    fake_run.finish()
    bounds = lower_bounds(read_run(fake_run.directory).reallocations)
    np.testing.assert_allclose(bounds, 4.5 - (4.3 - 4.2))


def test_drawing_leaves_matplotlib_as_it_was(fake_run: FakeRun) -> None:
    fake_run.finish()
    before = dict(matplotlib.rcParams)
    write_report(fake_run.directory)
    assert dict(matplotlib.rcParams) == before


def test_markup_escapes_what_is_not_markup() -> None:
    assert element("p", "a<b", Html("<i>c</i>"), class_='"') == (
        '<p class="&quot;">a&lt;b<i>c</i></p>'
    )
    assert word("line\nfeed") == '<bdi class="word">line\\nfeed</bdi>'
    assert len(word("x" * 1000)) < 100


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.1234, "0.12 s"), (59.7, "1 min 00 s"), (61, "1 min 01 s"), (7500, "2 h 05 min")],
)
def test_durations_are_written_for_people(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_sizes_are_written_for_people() -> None:
    assert (size(17), size(1536), size(5 * 1024**4)) == ("17 B", "1.5 KiB", "5.0 TiB")
