import hashlib
import io
import os
import resource
import shlex
import socket
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import running_server
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards import (
    KNOWN_CORPORA,
    Corpus,
    Patience,
    PublishedFile,
    download_corpus,
    prepare_command,
)

ROOT = Path(__file__).parents[2]
QUICK = Patience(timeout_seconds=20, num_tries=3, first_pause_seconds=0)
PTB, WIKITEXT_2, BILLION_WORDS = (
    KNOWN_CORPORA[name] for name in ("ptb", "wikitext-2", "billion-words")
)


@pytest.fixture
def server():
    with running_server() as site:
        yield site


@pytest.fixture
def output(tmp_path):
    return tmp_path / "texts"


def published(corpus, files):
    """Return the corpus as it were if these had been its files, smaller than the real ones."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return replace(
        corpus, files=tuple(PublishedFile(name, len(files[name]), sums[name]) for name in files)
    )


def texts_of(corpus):
    return {text: f"words of {text}\n".encode() * 50 for text in corpus.texts}


def zip_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tar_of(members, *others):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for entry in others:
            archive.addfile(entry)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def ptb():
    """Return a small Penn Treebank and its files."""
    files = texts_of(PTB)
    return published(PTB, files), files


def packed(corpus, extra=None):
    """Return a small corpus that comes in an archive, and its files."""
    members = {f"{corpus.packing.root}/{text}": body for text, body in texts_of(corpus).items()}
    pack = zip_of if corpus.files[0].name.endswith(".zip") else tar_of
    files = {corpus.files[0].name: pack({**members, **(extra or {})})}
    return published(corpus, files), files


def one_file(content, name="ptb.train.txt"):
    """Return a corpus of one file."""
    return replace(published(PTB, {name: content}), texts_of_split={"train": (name,)})


def download(corpus, output, server, **options):
    lines = []
    download_corpus(
        corpus,
        output,
        **{"mirror": server.url, "patience": QUICK, "on_progress": lines.append, **options},
    )
    return lines


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "SHA256SUMS"
    }


def leftovers(output):
    """Return what lies in the folder that an interrupted download goes on in."""
    return {
        path.name: path.read_bytes()
        for path in output.parent.glob(".*.partial/**/*")
        if path.is_file()
    }


# What comes out


@pytest.mark.parametrize("name", KNOWN_CORPORA)
def test_texts_as_they_were_published(name, server, output):
    corpus, server.files = ptb() if name == "ptb" else packed(KNOWN_CORPORA[name], {"README": b"?"})
    download(corpus, output, server)
    assert contents(output) == texts_of(corpus)
    assert not leftovers(output)
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=output, check=False).returncode == 0
    sums = (output / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in sums] == list(corpus.texts)


def test_known_corpora_are_whole():
    for corpus in KNOWN_CORPORA.values():
        assert list(corpus.texts_of_split) == ["train", "valid", "test"]
        assert len(set(corpus.texts)) == len(corpus.texts)
        assert all(len(bytes.fromhex(file.sha256)) == 32 for file in corpus.files)
        assert all(not address.endswith("/") for address in corpus.addresses)
    assert len(BILLION_WORDS.texts) == 99 + 2


def test_published_checksums_are_those_of_the_files_here(shared_data):
    for file in PTB.files:
        content = (shared_data / "ptb" / file.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.num_bytes, file.sha256)


def test_bounds_leave_room_for_the_real_texts(shared_data):
    num_bytes = sum(path.stat().st_size for path in (shared_data / "wikitext-2").glob("*.txt"))
    assert num_bytes < WIKITEXT_2.packing.max_text_bytes < 1.1 * num_bytes


def test_command_that_prepares_the_corpus(tmp_path, server):
    output = tmp_path / "my texts"
    corpus, server.files = packed(BILLION_WORDS)
    download(corpus, output, server)
    command = prepare_command(corpus, output).replace("lightrnn prepare", "printf '%s\\n'")
    words = subprocess.check_output(["bash", "-c", command], text=True).splitlines()
    train = sorted(str(output / text) for text in corpus.texts_of_split["train"])
    valid, test = (str(output / corpus.texts_of_split[split][0]) for split in ("valid", "test"))
    assert words == [
        *("--train", *train, "--valid", valid, "--test", test),
        *("--min-count", "3", "--output", str(output / "corpus")),
    ]


def test_archive_can_be_kept(server, output):
    corpus, server.files = packed(WIKITEXT_2)
    download(corpus, output, server, keep_archive=True)
    assert contents(output) == texts_of(corpus) | server.files


def test_progress_is_told(server, output):
    content = os.urandom(3_000_000)
    corpus, server.files = one_file(content), {"ptb.train.txt": content}
    lines = download(corpus, output, server, patience=replace(QUICK, report_seconds=0))
    told = [line for line in lines if line.startswith("ptb.train.txt: ") and " left" in line]
    assert told
    assert all("of 3.0 MB, " in line and " MB/s, " in line for line in told)
    assert told[-1].startswith("ptb.train.txt: 3.0 of 3.0 MB")
    assert told[-1].endswith(" 0:00 left")


# A folder that is there


def test_whole_folder_is_checked_and_not_fetched_again(server, output):
    corpus, server.files = packed(WIKITEXT_2)
    download(corpus, output, server)
    server.requests.clear()
    assert "holds wikitext-2 already" in download(corpus, output, server)[-1]
    assert not server.requests


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"?"), Path.unlink])
def test_damaged_folder(damage, server, output, fails):
    corpus, server.files = packed(WIKITEXT_2)
    download(corpus, output, server)
    damage(output / "wiki.valid.tokens")
    with fails(f"{output}/wiki.valid.tokens", "delete", "download again"):
        download(corpus, output, server)


def test_folder_of_another_corpus(server, output, fails):
    corpus, server.files = packed(WIKITEXT_2)
    download(corpus, output, server)
    with fails("other texts than those of ptb", "--output"):
        download(ptb()[0], output, server)


def test_folder_of_something_else(server, output, fails):
    output.mkdir()
    (output / "ptb.train.txt").write_text("my own")
    corpus, server.files = ptb()
    with fails("not empty", "--output"):
        download(corpus, output, server)
    assert contents(output) == {"ptb.train.txt": b"my own"}
    assert not server.requests


# Transfers that break off


@pytest.mark.parametrize("etag", ['"first"', ""])
def test_interrupted_download_fetches_only_the_rest(etag, server, output, fails):
    server.etag, server.last_modified = etag, "Mon, 01 Jan 2018 00:00:00 GMT"
    content = os.urandom(100_000)
    corpus, server.files = one_file(content), {"ptb.train.txt": content}
    server.cuts = [30_000]
    with fails("broke off after 30,000 of 100,000 bytes", "--mirror"):
        download(corpus, output, server, patience=replace(QUICK, num_tries=1))
    assert not output.exists()
    assert leftovers(output)["ptb.train.txt.part"] == content[:30_000]
    server.num_sent = 0
    download(corpus, output, server)
    assert server.num_sent == 70_000
    assert server.requests[-1]["Range"] == "bytes=30000-"
    assert contents(output) == {"ptb.train.txt": content}


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 4000), max_size=5))
def test_every_byte_is_sent_once_however_often_it_breaks_off(cuts):
    content = bytes(range(250)) * 40
    corpus = one_file(content)
    with running_server() as server, tempfile.TemporaryDirectory() as folder:
        server.files, server.cuts = {"ptb.train.txt": content}, list(cuts)
        download(corpus, Path(folder) / "texts", server, patience=replace(QUICK, num_tries=9))
        assert contents(Path(folder) / "texts") == {"ptb.train.txt": content}
        assert server.num_sent == len(content)


def test_tries_are_counted_from_the_last_byte_gained(server, output, fails):
    content = os.urandom(10_000)
    corpus, server.files = one_file(content), {"ptb.train.txt": content}
    server.cuts = [0, 0, 500, 0, 500, 0, 0]
    with fails("broke off after 1,000 of 10,000 bytes"):
        download(corpus, output, server)
    assert len(server.requests) == 7


def test_server_that_goes_away_on_the_way_is_waited_for(output, fails):
    content = os.urandom(10_000)
    corpus = one_file(content)
    lines = []
    with ExitStack() as running:
        server = running.enter_context(running_server())
        server.files, server.cuts = {"ptb.train.txt": content}, [4_000]

        def stop_server(line):
            lines.append(line)
            running.close()

        with fails("cannot be reached (Connection refused)"):
            download(corpus, output, server, on_progress=stop_server)
    assert sum("cannot be reached" in line for line in lines) == QUICK.num_tries - 2


def test_server_without_ranges_starts_over(server, output):
    server.knows_ranges = False
    content = os.urandom(10_000)
    corpus, server.files = one_file(content), {"ptb.train.txt": content}
    server.cuts = [4_000, 6_000]
    download(corpus, output, server)
    assert contents(output) == {"ptb.train.txt": content}
    assert server.num_sent == 20_000


def test_server_without_versions_starts_over(server, output):
    server.etag = 'W/"weak: not for ranges"'
    content = os.urandom(10_000)
    corpus, server.files = one_file(content), {"ptb.train.txt": content}
    server.cuts = [4_000]
    download(corpus, output, server)
    assert contents(output) == {"ptb.train.txt": content}
    assert [request["Range"] for request in server.requests] == [None, None]


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_changed_file_starts_over(heeds_if_range, server, output, fails):
    server.heeds_if_range = heeds_if_range
    old, new = os.urandom(10_000), os.urandom(10_000)
    corpus, server.files, server.cuts = one_file(new), {"ptb.train.txt": old}, [4_000]
    with fails("broke off"):
        download(corpus, output, server, patience=replace(QUICK, num_tries=1))
    server.files, server.etag = {"ptb.train.txt": new}, '"second"'
    download(corpus, output, server)
    assert contents(output) == {"ptb.train.txt": new}


def test_range_that_the_server_has_not_starts_over(server, output, fails):
    content = os.urandom(10_000)
    corpus, server.files, server.cuts = one_file(content), {"ptb.train.txt": content}, [4_000]
    with fails("broke off"):
        download(corpus, output, server, patience=replace(QUICK, num_tries=1))
    server.statuses = [416]
    download(corpus, output, server)
    assert contents(output) == {"ptb.train.txt": content}
    assert server.requests[-1]["Range"] is None


def test_files_that_came_whole_are_not_fetched_again(server, output, fails):
    corpus, server.files = ptb()
    test = server.files.pop("ptb.test.txt")
    with fails("ptb.test.txt answers 404"):
        download(corpus, output, server)
    assert not output.exists()
    server.files = {"ptb.test.txt": test}
    download(corpus, output, server)
    assert contents(output) == texts_of(corpus)


def test_silent_server_is_asked_again(server, output):
    corpus, server.files = ptb()
    server.silent_requests = 1
    lines = download(corpus, output, server, patience=replace(QUICK, timeout_seconds=0.2))
    assert "does not answer (timed out); trying again" in lines[0]
    assert contents(output) == texts_of(corpus)


def test_busy_server_is_asked_again(server, output):
    corpus, server.files = ptb()
    server.statuses = [503, 429]
    lines = download(corpus, output, server)
    assert "answers 503 Service Unavailable; trying again" in lines[0]
    assert contents(output) == texts_of(corpus)


def test_redirects_are_followed(server, output):
    corpus, files = ptb()
    with running_server() as elsewhere:
        elsewhere.files, server.moved_to = files, elsewhere.url
        elsewhere.cuts = [5]
        download(corpus, output, server)
        assert elsewhere.requests[1]["Range"] == "bytes=5-"
    assert contents(output) == texts_of(corpus)


# Addresses


def test_addresses_are_tried_in_order(server, output):
    corpus, server.files = ptb()
    corpus = replace(corpus, addresses=(f"{server.url}/gone", f"{server.url}/"))
    lines = download(corpus, output, server, mirror=None)
    assert f"{server.url}/gone/ptb.train.txt answers 404 Not Found; trying the next" in lines[0]
    assert contents(output) == texts_of(corpus)


def test_what_each_address_says_is_told(server, output, fails):
    corpus = replace(ptb()[0], addresses=(f"{server.url}/gone", unused_address()))
    with fails("gone/ptb.train.txt answers 404 Not Found", "cannot be reached", "--mirror"):
        download(corpus, output, server, mirror=None)
    assert len(server.requests) == 1  # what is not there is not asked for again


def test_wrong_content(server, output, fails):
    corpus, server.files = ptb()
    wrong = b"?" * len(server.files["ptb.train.txt"])
    server.files["ptb.train.txt"] = wrong
    with fails(hashlib.sha256(wrong).hexdigest(), corpus.files[0].sha256, "deleted", "--mirror"):
        download(corpus, output, server)
    assert not output.exists()
    assert not leftovers(output)


def test_wrong_size_is_refused_before_it_is_fetched(server, output, fails):
    content = os.urandom(10_000)
    corpus, server.files, server.cuts = one_file(content), {"ptb.train.txt": content}, [4_000]
    with fails("broke off"):
        download(corpus, output, server, patience=replace(QUICK, num_tries=1))
    server.files, server.etag = {"ptb.train.txt": b"<html>log in first</html>"}, '"portal"'
    with fails("has 25 bytes, expected 10,000"):
        download(corpus, output, server)
    assert leftovers(output)["ptb.train.txt.part"] == content[:4_000]  # not lost to a log-in page


def test_endless_answer_is_cut(server, output, fails):
    server.tells_length = False
    corpus, server.files = one_file(b"expected"), {"ptb.train.txt": os.urandom(1_000_000)}
    with fails("gives more than the 8 bytes expected"):
        download(corpus, output, server)


@pytest.mark.parametrize(
    "mirror", ["", "host/folder", "ftp://host", "file:///etc", "http://host:port", "http://["]
)
def test_mirror_that_is_no_address(mirror, server, output, fails):
    with fails("is not the address", "--mirror"):
        download(ptb()[0], output, server, mirror=mirror)


# Archives


def test_interrupted_unpacking_goes_on(server, output):
    corpus, server.files = packed(WIKITEXT_2)

    def interrupt(line):
        if line.startswith("unpacking") and "valid" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(corpus, output, server, on_progress=interrupt)
    assert not output.exists()
    assert "wiki.train.tokens" in leftovers(output)
    server.files.clear()
    lines = download(corpus, output, server)
    assert contents(output) == texts_of(corpus)
    assert [line.split(".")[1] for line in lines if line.startswith("unpack")] == ["valid", "test"]


def link(name, kind):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    return entry


SHARD = f"{BILLION_WORDS.packing.root}/{BILLION_WORDS.texts[0]}"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_link_or_folder_for_a_text_is_refused(kind, server, output, fails):
    archive = tar_of({}, link(SHARD, kind))
    corpus, server.files = published(BILLION_WORDS, {"b.tar.gz": archive}), {"b.tar.gz": archive}
    with fails("news.en-00001-of-00100 is a link or a folder"):
        download(corpus, output, server)


def test_link_for_a_text_in_a_zip_is_refused(server, output, fails):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("wikitext-2/wiki.train.tokens")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    files = {"w.zip": file.getvalue()}
    corpus, server.files = published(WIKITEXT_2, files), files
    with fails("wiki.train.tokens is a link or a folder"):
        download(corpus, output, server)


@pytest.mark.parametrize("corpus", [WIKITEXT_2, BILLION_WORDS], ids=lambda corpus: corpus.name)
@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "wikitext-2/../../evil"])
def test_paths_out_of_the_archive_are_refused(path, corpus, server, output, fails):
    corpus, server.files = packed(corpus, {path: b"evil"})
    with fails(f"the path {path} leads out of the archive"):
        download(corpus, output, server)
    assert not output.exists()
    assert not list(output.parent.rglob("evil"))


def test_more_text_than_there_is_is_refused(server, output, fails):
    corpus, server.files = packed(WIKITEXT_2)
    corpus = replace(corpus, packing=replace(corpus.packing, max_text_bytes=3000))
    with fails("wiki.test.tokens", "expected at most 3,000"):
        download(corpus, output, server)


def test_archive_without_the_texts(server, output, fails):
    files = {"w.zip": zip_of({"wikitext-2/wiki.train.tokens": b"words\n"})}
    corpus, server.files = published(WIKITEXT_2, files), files
    with fails("lacks wikitext-2/wiki.test.tokens and 1 more"):
        download(corpus, output, server)


def flipped(archive):
    return archive[:5000] + bytes([archive[5000] ^ 255]) + archive[5001:]


@pytest.mark.parametrize(
    ("name", "pack", "damage"),
    [
        ("w.zip", zip_of, flipped),
        ("w.zip", zip_of, lambda archive: archive[:-10_000]),
        ("w.tar.gz", tar_of, lambda archive: archive[:-10_000]),
        ("w.tar.gz", tar_of, lambda archive: b"not an archive" * 1000),
    ],
)
def test_damaged_archive(name, pack, damage, server, output, fails):
    content = os.urandom(100_000)
    files = {name: damage(pack({f"wikitext-2/{text}": content for text in WIKITEXT_2.texts}))}
    corpus, server.files = published(WIKITEXT_2, files), files
    with fails("is damaged", "start again"):
        download(corpus, output, server)
    assert not output.exists()


def test_archive_changed_since_it_came_is_fetched_again(server, output):
    corpus, server.files = packed(WIKITEXT_2)

    def spoil(line):
        if line.startswith("unpacking"):
            (archive,) = output.parent.glob(".*.partial/*.zip")
            archive.write_bytes(b"?")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(corpus, output, server, on_progress=spoil)
    download(corpus, output, server)
    assert contents(output) == texts_of(corpus)


# The disk and the command


@contextmanager
def files_of_at_most(num_bytes):
    """Let every write beyond this byte of a file fail, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_while_fetching(server, output, fails):
    content = os.urandom(1_000_000)
    corpus, server.files = one_file(content), {"ptb.train.txt": content}
    with files_of_at_most(300_000), fails(f"{output} cannot be written", "File too large"):
        download(corpus, output, server)
    assert not output.exists()
    server.num_sent = 0
    download(corpus, output, server)
    assert contents(output) == {"ptb.train.txt": content}
    assert server.num_sent == 700_000


def test_full_disk_while_unpacking(server, output, fails):
    texts = {text: text.encode() * 100_000 for text in WIKITEXT_2.texts}
    files = {"w.zip": zip_of({f"wikitext-2/{text}": body for text, body in texts.items()})}
    corpus, server.files = published(WIKITEXT_2, files), files
    with files_of_at_most(300_000), fails(f"{output} cannot be written", "--output"):
        download(corpus, output, server)
    assert not output.exists()
    server.files = {}
    download(corpus, output, server)
    assert contents(output) == texts


def unused_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launcher.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "no_proxy": "127.0.0.1"},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_command_from_web_to_corpus(shared_data, server, output):
    server.files = {file.name: (shared_data / "ptb" / file.name).read_bytes() for file in PTB.files}
    ended = command("download", "ptb", "--output", output, "--mirror", server.url)
    assert ended.returncode == 0, ended.stderr
    program, *arguments = shlex.split(ended.stdout)
    assert program == "lightrnn"
    prepared = command(*arguments)
    assert prepared.returncode == 0, prepared.stderr
    splits = Corpus.open(output / "corpus").manifest.splits
    tokens = [splits[name].tokens for name in ("train", "valid", "test")]
    assert tokens == [929_589, 73_760, 82_430]


def test_command_without_a_network(output):
    mirror = unused_address()
    ended = command("download", "wikitext-103", "--output", output, "--mirror", mirror)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: {mirror}/wikitext-103-v1.zip cannot be reached (Connection refused); "
        "check the network or give --mirror\n"
    )
    assert ended.stdout == ""
    assert not list(output.parent.iterdir())
