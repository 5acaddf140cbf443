"""Files from the web: resumed where they broke off, named when their checksum is right.

A file grows as `NAME.part`. Beside it `NAME.part.version` holds the server's mark of the version
(its ETag or the date of its last change), without which a part cannot be told from the part of
another version and is begun anew.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from data_shards.errors import CorpusError
from data_shards.files import sha256_of, sync_file
from data_shards.known_corpora import PublishedFile
from data_shards.pool import Report

CHUNK_BYTES = 1 << 18

# A name of its own: wikitext.smerity.com forbids the one that Python gives itself.
USER_AGENT = "lightrnn"

TEMPORARY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True)
class Patience:
    """How long a transfer goes on against failures, and how often it tells of itself.

    Attributes:
        timeout_seconds: longest wait for a connection, or for more bytes on one.
        num_tries: connections that may break one after another, counted from the last that brought
            something.
        first_pause_seconds: pause before the second try; each pause is twice the one before.
        report_seconds: time between two lines of progress.
    """

    timeout_seconds: float = 30.0
    num_tries: int = 6
    first_pause_seconds: float = 1.0
    report_seconds: float = 5.0


class TransferError(Exception):
    """An address does not give the file, and would not if it were asked again."""


class UnreachableError(TransferError):
    """No connection to the server comes about."""


class BrokenOffError(TransferError):
    """The server failed for now: asked again, it may go on."""


def fetch(
    file: PublishedFile,
    addresses: Sequence[str],
    folder: Path,
    patience: Patience,
    report: Report,
) -> Path:
    """Fetch a file from the first address that gives it whole, unless it is there already.

    Args:
        file: name, size and checksum.
        addresses: folders on servers, tried in this order.
        folder: where the file shall be; a part of it that is there is gone on with.
        patience: how long to go on against failures.
        report: called with a line of text now and then.

    Returns:
        The file's path. It has this name only if its checksum is right.

    Raises:
        CorpusError: no address gives the file; says why, for each of them.
        OSError: the folder cannot be written.
    """
    path = folder / file.name
    part = folder / f"{file.name}.part"
    if path.exists():
        if sha256_of(path) == file.sha256:
            return path
        report(f"{file.name} was changed since it came; fetching it again")
        path.unlink()
    refusals: list[str] = []
    for address in addresses:
        if refusals:
            report(f"{refusals[-1]}; trying the next address")
        url = f"{address.rstrip('/')}/{file.name}"
        try:
            receive_all(url, part, file.num_bytes, patience, report)
            check(part, file, url)
        except TransferError as error:
            refusals.append(str(error))
        else:
            sync_file(part)
            version_path(part).unlink(missing_ok=True)
            part.rename(path)
            report(f"{file.name}: {file.num_bytes:,} bytes, SHA-256 as published")
            return path
    raise CorpusError(f"{', '.join(refusals)}; check the network or give --mirror")


def check(part: Path, file: PublishedFile, url: str) -> None:
    """Delete the part and raise `TransferError` unless it has the checksum published."""
    found = sha256_of(part)
    if found != file.sha256:
        forget(part)
        raise TransferError(
            f"{url} gave a file with the SHA-256 {found}, expected {file.sha256} (what came is "
            "deleted)"
        )


def receive_all(url: str, part: Path, num_bytes: int, patience: Patience, report: Report) -> None:
    """Go on with a part until it has all its bytes, over as many connections as that takes."""
    begun_at = furthest = size_of(part)
    num_failures = 0
    while size_of(part) != num_bytes:
        try:
            receive(url, part, num_bytes, patience, report)
        except (BrokenOffError, UnreachableError) as error:
            reached = size_of(part)
            num_failures = 1 if reached > furthest else num_failures + 1
            furthest = max(furthest, reached)
            if isinstance(error, UnreachableError) and furthest == begun_at:
                raise  # it was never there: not the moment to be patient
            if num_failures == patience.num_tries:
                raise
            pause_seconds = patience.first_pause_seconds * 2 ** (num_failures - 1)
            report(f"{error}; trying again in {pause_seconds:g} s")
            time.sleep(pause_seconds)


def receive(url: str, part: Path, num_bytes: int, patience: Patience, report: Report) -> None:
    """Add to a part what one connection gives."""
    offset, version = resumable(part, num_bytes)
    headers = {"User-Agent": USER_AGENT}
    if version:
        headers |= {"Range": f"bytes={offset}-", "If-Range": version}
    with answer_of(Request(url, headers=headers), part, patience) as response:
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            check_goes_on(response, url, part, offset, version)
        else:
            offset = 0
        check_size(response, url, offset, num_bytes)
        if offset == 0:
            begin_anew(part, version_of(response))
        progress = Progress(part.stem, offset, num_bytes, patience.report_seconds, report)
        report(f"fetching {url}" + (f" from byte {offset:,} on" if offset else ""))
        with part.open("ab") as file:
            for chunk in chunks_of(response, url):
                file.write(chunk)
                progress.add(len(chunk))
                if progress.num_received > num_bytes:
                    raise TransferError(f"{url} gives more than the {num_bytes:,} bytes expected")
    if progress.num_received < num_bytes:
        raise BrokenOffError(
            f"{url} broke off after {progress.num_received:,} of {num_bytes:,} bytes"
        )


def answer_of(request: Request, part: Path, patience: Patience) -> HTTPResponse:
    """Send a request and return the answer if it is a good one; redirects are followed."""
    url = request.full_url
    try:
        response: HTTPResponse = urlopen(request, timeout=patience.timeout_seconds)
    except HTTPError as error:
        said = f"{url} answers {error.code} {error.reason}"
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            forget(part)
            raise BrokenOffError(said) from error
        if error.code in TEMPORARY or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise BrokenOffError(said) from error
        raise TransferError(said) from error
    except InvalidURL as error:
        raise TransferError(f"{url} is not an address ({error})") from error
    except URLError as error:
        why = getattr(error.reason, "strerror", None) or error.reason
        raise UnreachableError(f"{url} cannot be reached ({why})") from error
    except (OSError, HTTPException) as error:
        raise BrokenOffError(f"{url} does not answer ({error})") from error
    return response


def chunks_of(response: HTTPResponse, url: str) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come."""
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise BrokenOffError(f"{url} broke off ({error})") from error


def check_goes_on(response: HTTPResponse, url: str, part: Path, offset: int, version: str) -> None:
    """Forget the part and raise `BrokenOffError` unless the answer is what comes after it."""
    content_range = response.headers.get("Content-Range", "")
    same_version = version_of(response) in ("", version)
    if not same_version or not content_range.startswith(f"bytes {offset}-"):
        forget(part)
        raise BrokenOffError(f"{url} has another version than the part that is here")


def check_size(response: HTTPResponse, url: str, offset: int, num_bytes: int) -> None:
    """Raise `TransferError` where the size that the server tells is not the one expected."""
    if response.length is not None and offset + response.length != num_bytes:
        raise TransferError(
            f"{url} has {offset + response.length:,} bytes, expected {num_bytes:,}: it is another "
            "file"
        )


def version_of(response: HTTPResponse) -> str:
    """Return the server's mark of the version, fit for `If-Range` (RFC 9110, 13.1.5); or ''."""
    etag: str = response.headers.get("ETag", "")
    last_modified: str = response.headers.get("Last-Modified", "")
    return etag if etag.startswith('"') else last_modified


def version_path(part: Path) -> Path:
    """Return the file beside a part that tells which version it is of."""
    return part.with_name(f"{part.name}.version")


def resumable(part: Path, num_bytes: int) -> tuple[int, str]:
    """Return the number of bytes to go on from and the version they are of, or `(0, "")`."""
    offset = size_of(part)
    if 0 < offset < num_bytes and version_path(part).exists():
        return offset, version_path(part).read_text("utf-8")
    return 0, ""


def begin_anew(part: Path, version: str) -> None:
    """Leave an empty part of a version."""
    forget(part)
    if version:
        version_path(part).write_text(version, "utf-8")


def forget(part: Path) -> None:
    """Delete a part and its version."""
    part.unlink(missing_ok=True)
    version_path(part).unlink(missing_ok=True)


def size_of(part: Path) -> int:
    """Return the number of bytes that are there."""
    return part.stat().st_size if part.exists() else 0


class Progress:
    """Counts the bytes of a transfer and tells of it now and then."""

    def __init__(
        self, name: str, num_received: int, num_bytes: int, every_seconds: float, report: Report
    ) -> None:
        self.num_received = num_received
        self._name = name
        self._num_bytes = num_bytes
        self._every_seconds = every_seconds
        self._report = report
        self._begun_at_bytes = num_received
        self._begun_at_seconds = self._told_at_seconds = time.monotonic()

    def add(self, num_bytes: int) -> None:
        """Count bytes that came."""
        self.num_received += num_bytes
        now = time.monotonic()
        if now - self._told_at_seconds >= self._every_seconds:
            self._told_at_seconds = now
            self._report(self._line(max(now - self._begun_at_seconds, 1e-9)))

    def _line(self, seconds: float) -> str:
        rate = (self.num_received - self._begun_at_bytes) / seconds
        minutes_left, seconds_left = divmod(round((self._num_bytes - self.num_received) / rate), 60)
        return (
            f"{self._name}: {self.num_received / 1e6:.1f} of {self._num_bytes / 1e6:.1f} MB, "
            f"{rate / 1e6:.2f} MB/s, {minutes_left}:{seconds_left:02d} left"
        )
