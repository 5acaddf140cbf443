"""A public corpus to plain text files, ready for `lightrnn prepare`.

All comes into a folder beside the one asked for, which takes its name when everything is in it, so
that a folder under that name is a whole corpus. A run that was interrupted goes on in the same
place. `SHA256SUMS`, for `sha256sum -c` and for the next run, is written before the name is given.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from data_shards.archives import unpack
from data_shards.errors import CorpusError
from data_shards.files import sha256_of, sync_folder, whole_file
from data_shards.known_corpora import KnownCorpus
from data_shards.pool import Report
from data_shards.transfer import Patience, fetch
from data_shards.work_folder import check_absent

SUMS_FILE = "SHA256SUMS"


def download_corpus(
    corpus: KnownCorpus,
    output: Path,
    *,
    mirror: str | None = None,
    keep_archive: bool = False,
    patience: Patience | None = None,
    on_progress: Report | None = None,
) -> None:
    """Fetch a public corpus and leave its texts in a folder; one that is there is checked.

    Args:
        corpus: one of `KNOWN_CORPORA`.
        output: the folder to make; it must not exist, be empty, or hold this corpus already.
        mirror: a folder on a server that holds the corpus's files, instead of the public ones.
        keep_archive: whether to leave the archive that the texts came in beside them.
        patience: how long to go on against failures of the network.
        on_progress: called with a line of text now and then.

    Raises:
        CorpusError: no address gives the corpus, what it gives is not the corpus, or the output
            holds something else or cannot be written.
    """
    report = on_progress or (lambda message: None)
    addresses = corpus.addresses if mirror is None else (checked_mirror(mirror),)
    output = output.resolve()
    if is_there(corpus, output):
        report(f"{output} holds {corpus.name} already, and its checksums are right")
        return
    with partial_folder(output, corpus.name) as folder:
        if not (folder / SUMS_FILE).exists():
            for file in corpus.files:
                fetch(file, addresses, folder, patience or Patience(), report)
            unpack_texts(corpus, folder, report)
            write_sums(corpus, folder)
        if corpus.packing and not keep_archive:
            for file in corpus.files:
                (folder / file.name).unlink(missing_ok=True)
    report(f"{corpus.name} is in {output}")


def prepare_command(corpus: KnownCorpus, output: Path) -> str:
    """Return the shell command that makes a corpus folder, `corpus` inside `output`, of the texts.

    Where a split has many texts, they lie in a folder of their own, and the command says `*`.
    """
    words = ["lightrnn", "prepare"]
    for split, texts in corpus.texts_of_split.items():
        words.append(f"--{split}")
        if len(texts) == 1:
            words.append(shlex.quote(str(output / texts[0])))
        else:
            words.append(shlex.quote(str((output / texts[0]).parent)) + "/*")
    words += [*corpus.prepare_options, "--output", shlex.quote(str(output / "corpus"))]
    return " ".join(words)


def checked_mirror(mirror: str) -> str:
    """Return the mirror's address, or raise `CorpusError` where it is none."""
    try:
        parts = urlsplit(mirror)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise CorpusError(
            f"{mirror} is not the address of a folder on a server, expected one such as "
            "http://host:8000/folder; change --mirror"
        )
    return mirror


@contextmanager
def partial_folder(output: Path, name: str) -> Iterator[Path]:
    """Give a folder beside `output` that takes its name if the block succeeds.

    If it does not, what is in the folder stays, and the next run is given it.

    Raises:
        CorpusError: `output` exists and is not an empty folder, or cannot be written.
    """
    folder = output.parent / f".{output.name}.{name}.partial"
    try:
        check_absent(output)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
            folder.rename(output)
            sync_folder(output.parent)
        finally:
            with suppress(OSError):
                folder.rmdir()  # which it only does where nothing has come
    except OSError as error:
        raise CorpusError(
            f"{output} cannot be written ({error}), expected a place with room for the corpus; "
            "make room and start again, or change --output"
        ) from error


def unpack_texts(corpus: KnownCorpus, folder: Path, report: Report) -> None:
    """Unpack the texts where they came in an archive."""
    if corpus.packing:
        wanted = {f"{corpus.packing.root}/{text}": folder / text for text in corpus.texts}
        for file in corpus.files:
            unpack(folder / file.name, wanted, corpus.packing.max_text_bytes, report)


def write_sums(corpus: KnownCorpus, folder: Path) -> None:
    """Write the checksums of the texts, which are on the disk by then."""
    for subfolder in {(folder / text).parent for text in corpus.texts} | {folder}:
        sync_folder(subfolder)
    lines = [f"{sha256_of(folder / text)}  {text}\n" for text in corpus.texts]
    with whole_file(folder / SUMS_FILE) as file:
        file.write("".join(lines).encode())
    sync_folder(folder)


def is_there(corpus: KnownCorpus, folder: Path) -> bool:
    """Return whether a folder holds the corpus; raise `CorpusError` where it is damaged there."""
    try:
        if not (folder / SUMS_FILE).is_file():
            return False
        lines = (folder / SUMS_FILE).read_text("utf-8").splitlines()
        sum_of_text = {text: sha256 for sha256, _, text in (line.partition("  ") for line in lines)}
        if sum_of_text.keys() != set(corpus.texts):
            raise CorpusError(
                f"{folder} holds other texts than those of {corpus.name}, expected a new folder; "
                "change --output"
            )
        for text, expected in sum_of_text.items():
            found = sha256_of(folder / text)
            if found != expected:
                raise CorpusError(
                    f"{folder / text} was changed: it has the SHA-256 {found}, expected "
                    f"{expected}; delete {folder} and download again"
                )
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{folder} cannot be checked ({error}), expected the texts of {corpus.name}; "
            "delete it and download again"
        ) from error
    return True
