"""Fetching a file over HTTP so that it is whole when it has its name, and never fetched twice."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import requests

from data_shards.errors import CorpusError

CHUNK_BYTES = 1 << 16
"""What is lost at most of what a connection brought before it broke."""

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 5
SECONDS_BETWEEN_REPORTS = 5.0

PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416

Report = Callable[[str], None]


class Unreachable(CorpusError):
    """An address cannot be reached, or does not have the file; another may."""


def fetch(
    address: str,
    path: Path,
    checksum: str,
    on_progress: Report,
    *,
    pause_seconds: float = 1.0,
) -> None:
    """Fetch a file; what an earlier try has of it is kept in `NAME.part` and gone on from.

    Args:
        address: http or https; redirects are followed, certificates verified.
        path: gets the file when it is whole, checked and on the disk.
        checksum: `sha256:` or `md5:` and hexadecimal digits.
        on_progress: gets a line every some seconds.
        pause_seconds: before the second attempt after a lost connection, doubled before each more.

    Raises:
        Unreachable: the address cannot be reached, or does not have the file.
        CorpusError: the file has another checksum; it is removed.
        OSError: there is no room or no permission.
    """
    part = path.with_name(f"{path.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_rest(address, part, on_progress)
            break
        except requests.HTTPError as error:
            raise Unreachable(f"{address} cannot be had ({error})") from error
        except requests.RequestException as error:
            if attempt == ATTEMPTS or not part.exists():
                raise Unreachable(f"{address} cannot be reached ({_reason(error)})") from error
            on_progress(f"{path.name}: lost the connection, trying again")
            time.sleep(pause_seconds * 2 ** (attempt - 1))
    found = checksum_of(part, checksum.partition(":")[0])
    _validator(part).unlink(missing_ok=True)
    if found != checksum:
        part.unlink()
        raise CorpusError(
            f"{address} has the checksum {found}, expected {checksum}: it is not the file that was "
            "published; try again later, or give another --mirror"
        )
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def checksum_of(path: Path, kind: str) -> str:
    """Return the checksum of a file, `sha256:` or `md5:` and hexadecimal digits."""
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


def _fetch_rest(address: str, part: Path, on_progress: Report) -> None:
    """Append what is missing to a part; begin anew where the server has another file by now."""
    validator = _validator(part)
    have = part.stat().st_size if part.exists() and validator.exists() else 0
    # Some servers refuse the names that libraries give themselves.
    headers = {"Accept-Encoding": "identity", "User-Agent": "lightrnn"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
        if answer.status_code == RANGE_NOT_SATISFIABLE:
            return  # the part is whole already
        answer.raise_for_status()
        if answer.status_code != PARTIAL_CONTENT:
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        # Without a strong validator nothing tells whether a rest belongs to the same file.
        validator.unlink(missing_ok=True)
        with part.open("ab" if have else "wb") as file:
            if version and not version.startswith("W/"):
                validator.write_text(version)
            progress = _Progress(part.stem, have, have + length, on_progress)
            for chunk in answer.iter_content(CHUNK_BYTES):
                file.write(chunk)
                progress.add(len(chunk))
        if length and progress.have < have + length:
            raise requests.ConnectionError("the connection was lost")


class _Progress:
    def __init__(self, name: str, have: int, total: int, on_progress: Report) -> None:
        self.name, self.have, self.total, self.on_progress = name, have, total, on_progress
        self.began, self.had = time.monotonic(), have
        self.next_report = self.began + SECONDS_BETWEEN_REPORTS

    def add(self, num_bytes: int) -> None:
        self.have += num_bytes
        now = time.monotonic()
        if now < self.next_report:
            return
        self.next_report = now + SECONDS_BETWEEN_REPORTS
        speed = (self.have - self.had) / (now - self.began)
        left = f", {(self.total - self.have) / speed:.0f} s left" if self.total and speed else ""
        self.on_progress(
            f"{self.name}: {self.have / 1e6:.1f} of {self.total / 1e6:.1f} MB, "
            f"{speed / 1e6:.2f} MB/s{left}"
        )


def _validator(part: Path) -> Path:
    """The file that tells which version of the file a part is of."""
    return part.with_name(f"{part.name}.version")


def _reason(error: requests.RequestException) -> str:
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause) or type(cause).__name__
