"""Builds of a corpus: shared out over workers, gone on with, alone in their place."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_shards import Corpus, HoldOut, Recipe, Workers, local_workers, prepare_corpus

PIECES = [f"{'word ' * (number % 9)}w{number % 7} v{number % 61}\n" * 3 for number in range(300)]


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """Return six files, too large for two of them to be a span."""
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.txt")
        paths[-1].write_text("".join(PIECES[50 * number : 50 * number + 50]) * 200)
    return paths


RECIPE = Recipe(shard_tokens=60_000, vocab_size=40)


def files_of(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def partial_of(output: Path) -> Path:
    return output.parent / f".{output.name}.partial"


@pytest.mark.parametrize("num_workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    texts: list[Path], tmp_path: Path, num_workers: int
) -> None:
    alone = prepare_corpus(texts, texts[:1], [], tmp_path / "alone", RECIPE)
    with local_workers(num_workers) as workers:
        prepare_corpus(texts, texts[:1], [], tmp_path / "shared", RECIPE, workers=workers)
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "alone")
    assert len(alone.splits["train"].shards) > 6


def test_the_memory_does_not_change_the_bytes(
    texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_corpus(texts, [], [], tmp_path / "much", RECIPE)
    monkeypatch.setattr("data_shards.merging.MERGING_BYTES_A_WORD_BYTE", 10**8)
    lines: list[str] = []
    prepare_corpus(texts, [], [], tmp_path / "little", RECIPE, on_progress=lines.append)
    assert any(line.startswith("merged 2 of") for line in lines)
    assert files_of(tmp_path / "little") == files_of(tmp_path / "much")


@pytest.mark.mpi
def test_ranks_of_mpi_give_the_same_bytes(texts: list[Path], tmp_path: Path) -> None:
    inputs = ["--train", *map(str, texts), "--vocab-size", "40", "--shard-tokens", "60000"]
    command = [sys.executable, "-m", "launcher.cli", "prepare", *inputs, "--output"]
    mpiexec = Path(sys.executable).with_name("mpiexec")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env=environment
        )

    alone = call(*command, str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    ranks = call(str(mpiexec), "-n", "3", *command, str(tmp_path / "ranks"))
    assert ranks.returncode == 0, ranks.stderr
    assert files_of(tmp_path / "ranks") == files_of(tmp_path / "alone")
    # Every rank ends with the status of a user's mistake, which is told once.
    again = call(str(mpiexec), "-n", "3", *command, str(tmp_path / "ranks"))
    assert again.returncode == 2
    assert again.stderr.count("error:") == 1
    assert "exists and is not empty" in again.stderr


class Interruption(Exception):
    """Stands for whatever ends a build."""


def stop_at(beginning: str, number: int) -> Any:
    """Return what ends a build at the line of progress that is the n-th with this beginning."""
    seen = []

    def stop(line: str) -> None:
        seen.append(line.startswith(beginning))
        if seen.count(True) == number:
            raise Interruption

    return stop


@pytest.mark.parametrize(
    ("beginning", "number"), [("read", 1), ("read", 4), ("vocabulary", 1), ("wrote", 3)]
)
def test_an_interrupted_build_goes_on(
    texts: list[Path], tmp_path: Path, beginning: str, number: int
) -> None:
    prepare_corpus(texts, [], [], tmp_path / "whole", RECIPE)
    output = tmp_path / "interrupted"
    with pytest.raises(Interruption):
        prepare_corpus(texts, [], [], output, RECIPE, on_progress=stop_at(beginning, number))
    assert not output.exists()
    lines: list[str] = []
    prepare_corpus(texts, [], [], output, RECIPE, on_progress=lines.append)

    assert lines[0].startswith("going on")
    num_read = sum(line.startswith("read") for line in lines)
    assert num_read == (6 - number if beginning == "read" else 0)
    assert files_of(output) == files_of(tmp_path / "whole")
    assert not partial_of(output).exists()


def test_a_killed_build_goes_on(texts: list[Path], tmp_path: Path) -> None:
    """Kill the builder at whatever it does, several times, and see what comes out."""
    prepare_corpus(texts, [], [], tmp_path / "whole", RECIPE)
    output = tmp_path / "killed"
    script = (
        "import sys; from pathlib import Path; from data_shards import *\n"
        "*texts, output = map(Path, sys.argv[1:])\n"
        "prepare_corpus(texts, [], [], output, Recipe(shard_tokens=60_000, vocab_size=40))\n"
    )
    command = [sys.executable, "-c", script, *map(str, texts), str(output)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for number in range(4):
        builder = subprocess.Popen(command, env=environment)
        # From the moment that there is something to lose.
        while builder.poll() is None and not list(partial_of(output).glob("text/*")):
            time.sleep(0.002)
        time.sleep(0.02 * number)
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        if output.exists():
            break
    if not output.exists():
        prepare_corpus(texts, [], [], output, RECIPE)
    Corpus.open(output).verify()
    assert files_of(output) == files_of(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="/proc tells who is alive")
def test_workers_end_with_the_builder_that_was_killed(texts: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "launcher.cli", "prepare", "--workers", "2"]
    command += ["--train", *map(str, texts * 20), "--output", str(tmp_path / "corpus")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    builder = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{builder.pid}/task/{builder.pid}/children")
    deadline = time.monotonic() + 60
    while len(workers := children.read_text().split()) < 3:  # two, and what tracks their resources
        assert builder.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    builder.kill()
    builder.wait()
    while any(_is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_other_settings_or_another_text_start_anew(texts: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    with pytest.raises(Interruption):
        prepare_corpus(texts, [], [], output, RECIPE, on_progress=stop_at("wrote", 1))
    texts[0].write_text("quite another text\n" * 40_000)
    lines: list[str] = []
    prepare_corpus(texts, [], [], output, RECIPE, on_progress=lines.append)
    assert sum(line.startswith("read") for line in lines) == 6
    prepare_corpus(texts, [], [], tmp_path / "whole", RECIPE)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_nothing_is_left_of_a_build_that_finished_nothing(
    texts: list[Path], tmp_path: Path, fails: Any
) -> None:
    texts[0].write_bytes(b"\xff\n")
    with fails("0.txt", "--train"):
        prepare_corpus(texts, [], [], tmp_path / "place" / "corpus", RECIPE)
    assert list((tmp_path / "place").iterdir()) == []


def test_a_disk_without_room_is_one_line_and_no_corpus(texts: list[Path], tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: writing fails in the middle."""
    output = tmp_path / "corpus"
    command = [sys.executable, "-m", "launcher.cli", "prepare", "--shard-tokens", "60000"]
    command += ["--train", *map(str, texts), "--vocab-size", "40", "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    full = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, preexec_fn=limit
    )
    assert full.returncode == 2
    assert "Traceback" not in full.stderr
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("error:")]
    assert "cannot be written" in line
    assert "--output" in line
    assert not output.exists()
    prepare_corpus(texts, [], [], output, RECIPE)
    prepare_corpus(texts, [], [], tmp_path / "whole", RECIPE)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_two_builds_of_one_corpus_are_kept_apart(
    texts: list[Path], tmp_path: Path, fails: Any
) -> None:
    output = tmp_path / "corpus"
    partial_of(output).mkdir()
    with (partial_of(output) / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with fails("being built by another process", "--output"):
            prepare_corpus(texts, [], [], output, RECIPE)
    prepare_corpus(texts, [], [], output, RECIPE)


def test_a_failing_task_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), local_workers(2) as workers:
        list(workers.each({str(number): (divmod, 1, number) for number in range(3)}))
    assert list(Workers().each({"one": (divmod, 7, 2)})) == [("one", (3, 1))]


@pytest.mark.parametrize("by", ["rows", "files"])
def test_what_is_held_out_is_in_no_other_split(texts: list[Path], tmp_path: Path, by: Any) -> None:
    for number, path in enumerate(texts):
        path.write_text("".join(f"line-{number}-{line}\n" for line in range(200)))
    recipe = Recipe(hold_out=HoldOut(0.25, by), shard_tokens=10**6)
    with local_workers(2) as workers:
        manifest = prepare_corpus(texts, [], [], tmp_path / "corpus", recipe, workers=workers)
    corpus = Corpus.open(tmp_path / "corpus")
    # Words that only occur in held-out rows are in no vocabulary, so rows are told by their number.
    rows = {name: split.rows for name, split in manifest.splits.items()}
    assert sum(rows.values()) == 1200
    expected = 200 if by == "files" else 1200 // 4
    assert rows["valid"] == pytest.approx(expected, abs=16)
    assert rows["test"] == pytest.approx(expected if by == "rows" else 400, abs=16)
    assert corpus.manifest.vocabulary.words == rows["train"] + 2
    for name in ("valid", "test"):
        assert manifest.splits[name].unknown_tokens == rows[name]
    assert manifest.splits["train"].unknown_tokens == 0


def test_what_cannot_be_held_out(texts: list[Path], tmp_path: Path, fails: Any) -> None:
    with fails("hold_out=0.5", "--hold-out"):
        HoldOut(0.5)
    with fails("too short to hold out", "--valid"):
        texts[0].write_text("short\n" * 20)
        prepare_corpus(texts[:1], [], [], tmp_path / "c", Recipe(hold_out=HoldOut(0.1)))
    with fails("1 files", "--hold-out-by rows"):
        prepare_corpus(texts[:1], [], [], tmp_path / "c", Recipe(hold_out=HoldOut(0.1, "files")))
    with fails("--hold-out beside --valid"):
        prepare_corpus(texts, texts, [], tmp_path / "c", Recipe(hold_out=HoldOut(0.1)))


def test_settings_that_contradict_each_other(texts: list[Path], tmp_path: Path, fails: Any) -> None:
    words = tmp_path / "words"
    words.write_text("w1\nw2\n")
    with fails("no cut beside it", "--vocab"):
        prepare_corpus(texts, [], [], tmp_path / "c", Recipe(vocabulary=words, vocab_size=9))
    with fails("memory=0.5 GiB", "--memory", "--shard-tokens"):
        prepare_corpus(texts, [], [], tmp_path / "c", Recipe(memory_gib=0.5))
    with fails("max_word_bytes=0", "--max-word-bytes"):
        prepare_corpus(texts, [], [], tmp_path / "c", Recipe(max_word_bytes=0))
    with fails("workers=0", "--workers"), local_workers(0):
        pass
    manifest = prepare_corpus(texts, [], [], tmp_path / "c", Recipe(vocabulary=words))
    assert list(Corpus.open(tmp_path / "c").vocabulary.words) == ["<eos>", "<unk>", "w1", "w2"]
    assert manifest.splits["train"].unknown_tokens > 0
