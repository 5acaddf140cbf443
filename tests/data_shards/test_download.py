"""Known corpora, fetched from a server of our own that has their real layouts and bad days."""

import hashlib
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_shards import KNOWN_CORPORA, CorpusError, download_corpus, prepare_command, transfer
from data_shards.known_corpora import BILLION_WORDS, KnownCorpus
from data_shards.transfer import fetch

TEXT = "".join(f"line {number} of some text\n" for number in range(3000)).encode()


@dataclass
class Server:
    """What a server has and does.

    Attributes:
        files: content by path.
        address: of the server.
        ranges: whether it goes on from the middle of a file.
        drops_after: bytes of each answer after which it closes the connection, taken from the list.
        version: of all files, sent as their ETag.
        sent: path and bytes of every answer.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    address: str = ""
    ranges: bool = True
    drops_after: list[int] = field(default_factory=list)
    version: str = '"one"'
    sent: list[tuple[str, int]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range") == state.version
            start = int(wanted[1]) if wanted and same and state.ranges else 0
            if start >= len(content) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", state.version)
            self.end_headers()
            rest = content[start:]
            if state.drops_after:
                rest = rest[: state.drops_after.pop(0)]
            self.wfile.write(rest)
            state.sent.append((self.path, len(rest)))
            self.close_connection = True

        def log_message(self, *_: Any) -> None: ...

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{httpd.server_port}/"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def zipped(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def tarred(files: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, to in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, to
            archive.addfile(member)
    return target.getvalue()


def serve(server: Server, name: str, archive: bytes | None = None) -> KnownCorpus:
    """Serve the files of a corpus; return it with their checksums."""
    corpus = KNOWN_CORPORA[name]
    downloads = []
    for download in corpus.downloads:
        content = archive if archive is not None else download.name.encode() + b"\n" + TEXT
        server.files[download.name] = content
        downloads.append(replace(download, checksum=sha256(content)))
    return replace(corpus, downloads=tuple(downloads))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }


BILLION_FILES = {
    f"{BILLION_WORDS}/training-monolingual.tokenized.shuffled/news.en-{n:05d}-of-00100": b"%d\n" % n
    for n in (1, 2, 99)
} | {
    f"{BILLION_WORDS}/heldout-monolingual.tokenized.shuffled/news.en.heldout-{n:05d}-of-00050": (
        b"held out %d\n" % n
    )
    for n in range(3)
}


def test_single_files_are_fetched_and_checked(server: Server, tmp_path: Path) -> None:
    corpus = serve(server, "ptb")
    found = download_corpus(corpus, tmp_path / "ptb", mirror=server.address)
    assert {split: [path.name for path in paths] for split, paths in found.items()} == {
        "train": ["ptb.train.txt"],
        "valid": ["ptb.valid.txt"],
        "test": ["ptb.test.txt"],
    }
    assert files_of(tmp_path / "ptb") == server.files


@pytest.mark.parametrize("keep_archive", [False, True])
def test_archives_are_unpacked(server: Server, tmp_path: Path, keep_archive: bool) -> None:
    files = {f"wikitext-2/wiki.{name}.tokens": TEXT for name in ("train", "valid", "test")}
    corpus = serve(server, "wikitext-2", zipped(files | {"wikitext-2/README": b"read me"}))
    folder = tmp_path / "wikitext-2"
    download_corpus(corpus, folder, mirror=server.address, keep_archive=keep_archive)
    archive = {corpus.downloads[0].name: server.files[corpus.downloads[0].name]}
    assert files_of(folder) == files | (archive if keep_archive else {})


def test_the_billion_words_and_what_is_made_of_them(server: Server, tmp_path: Path) -> None:
    corpus = serve(server, "billion-words", tarred(BILLION_FILES))
    found = download_corpus(corpus, tmp_path, mirror=server.address)
    assert [path.read_bytes() for path in found["train"]] == [b"1\n", b"2\n", b"99\n"]
    assert [path.read_bytes() for path in found["valid"]] == [b"held out 1\n"]
    assert [path.read_bytes() for path in found["test"]] == [b"held out 0\n"]

    command = shlex.split(prepare_command(corpus, tmp_path))
    command[-1] = str(tmp_path / "corpus")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "train: 6 tokens" in done.stderr


def test_a_second_time_nothing_is_fetched(server: Server, tmp_path: Path) -> None:
    corpus = serve(server, "ptb")
    download_corpus(corpus, tmp_path, mirror=server.address)
    num_answers = len(server.sent)
    lines: list[str] = []
    download_corpus(corpus, tmp_path, mirror=server.address, on_progress=lines.append)
    assert len(server.sent) == num_answers
    assert "already" in lines[0]
    # A file that was changed since is fetched anew, and only this one.
    (tmp_path / "ptb.valid.txt").unlink()
    download_corpus(corpus, tmp_path, mirror=server.address)
    assert [path for path, _ in server.sent[num_answers:]] == ["/ptb.valid.txt"]


def test_a_lost_connection_costs_only_the_rest(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1000)
    server.files["text"] = TEXT
    server.drops_after = [20_000, 30_000]
    lines: list[str] = []
    fetch(f"{server.address}text", tmp_path / "text", sha256(TEXT), lines.append, pause_seconds=0)
    assert (tmp_path / "text").read_bytes() == TEXT
    assert sum(num_bytes for _, num_bytes in server.sent) == len(TEXT)
    assert len(server.sent) == 3
    assert sum("lost the connection" in line for line in lines) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_an_interrupted_transfer_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["text"] = TEXT
    server.drops_after = [40_000]
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    monkeypatch.setattr(transfer, "CHUNK_BYTES", 1000)
    arguments = (f"{server.address}text", tmp_path / "text", sha256(TEXT), print)
    with pytest.raises(CorpusError, match="cannot be reached"):
        fetch(*arguments)
    assert (tmp_path / "text.part").stat().st_size == 40_000
    assert not (tmp_path / "text").exists()
    fetch(*arguments)
    assert [num_bytes for _, num_bytes in server.sent] == [40_000, len(TEXT) - 40_000]
    assert (tmp_path / "text").read_bytes() == TEXT


@pytest.mark.parametrize("why", ["no ranges", "another version"])
def test_where_a_rest_cannot_be_had_all_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    server.files["text"] = TEXT[::-1] if why == "another version" else TEXT
    server.drops_after = [40_000]
    arguments = (f"{server.address}text", tmp_path / "text", sha256(TEXT), print)
    with pytest.raises(CorpusError):
        fetch(*arguments)
    server.files["text"] = TEXT
    server.ranges, server.version = why != "no ranges", '"two"'
    fetch(*arguments)
    assert server.sent[-1] == ("/text", len(TEXT))
    assert (tmp_path / "text").read_bytes() == TEXT


def test_a_part_that_is_whole_already_is_taken(server: Server, tmp_path: Path) -> None:
    server.files["text"] = TEXT
    (tmp_path / "text.part").write_bytes(TEXT)
    (tmp_path / "text.part.version").write_text(server.version)
    fetch(f"{server.address}text", tmp_path / "text", sha256(TEXT), print)
    assert server.sent == []
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_a_wrong_file_is_not_kept(server: Server, tmp_path: Path, fails: Any) -> None:
    corpus = serve(server, "ptb")
    server.files["ptb.train.txt"] += b"more"
    with fails("has the checksum", "not the file that was published", "--mirror"):
        download_corpus(corpus, tmp_path, mirror=server.address)
    assert list(tmp_path.iterdir()) == []


def test_addresses_are_tried_in_order(server: Server, tmp_path: Path, fails: Any) -> None:
    corpus = serve(server, "ptb")
    addresses = (f"{server.address}gone/", server.address)
    downloads = tuple(replace(one, bases=addresses) for one in corpus.downloads)
    download_corpus(replace(corpus, downloads=downloads), tmp_path / "ptb")
    assert files_of(tmp_path / "ptb") == server.files
    server.files.clear()
    with fails("404", "gone/ptb.train.txt", "--mirror"):
        download_corpus(replace(corpus, downloads=downloads), tmp_path / "other")


def test_what_an_archive_should_not_hold_is_left_out(server: Server, tmp_path: Path) -> None:
    outside = {"../escaped": b"x", "/absolute": b"x", f"{BILLION_WORDS}/../escaped": b"x"}
    train = next(iter(BILLION_FILES))
    folder = tmp_path / "folder"
    archive = tarred(
        BILLION_FILES | outside, links={train.replace("00001", "00003"): "/etc/passwd"}
    )
    download_corpus(serve(server, "billion-words", archive), folder, mirror=server.address)
    assert files_of(folder) == {
        name: content for name, content in BILLION_FILES.items() if "00002-of-00050" not in name
    }
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_archives_that_cannot_be_used(server: Server, tmp_path: Path, fails: Any) -> None:
    whole = tarred(BILLION_FILES)
    cases = [
        (whole[: len(whole) // 2], 1 << 20, "cannot be unpacked"),
        (tarred({"other": b"x"}), 1 << 20, "has no file for train, valid, test"),
        (whole, 3, "more bytes than the published ones"),
    ]
    for number, (archive, most_bytes, part) in enumerate(cases):
        corpus = replace(serve(server, "billion-words", archive), most_bytes=most_bytes)
        with fails(part):
            download_corpus(corpus, tmp_path / str(number), mirror=server.address)
        assert not (tmp_path / str(number) / "SHA256SUMS").exists()


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path, fails: Any) -> None:
    (tmp_path / "file").write_text("")
    with fails("cannot take ptb", "--output"):
        download_corpus(serve(server, "ptb"), tmp_path / "file", mirror=server.address)


def test_the_command_says_in_one_line_that_it_is_offline(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = ["download", "ptb", "--output", str(tmp_path), "--mirror", "http://127.0.0.1:9/"]
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: http://127.0.0.1:9/ptb.train.txt cannot")
    assert "--mirror" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_published_checksums_are_those_of_the_files_at_hand(shared_data: Path) -> None:
    for download in KNOWN_CORPORA["ptb"].downloads:
        assert sha256((shared_data / "ptb" / download.name).read_bytes()) == download.checksum
