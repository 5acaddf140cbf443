"""A web server on the loopback interface that serves bytes, and misbehaves as it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served and how; all of it may be changed between two requests.

    Attributes:
        files: content by path.
        etag: the version it claims, "" for none.
        last_modified: the date it claims, "" for none.
        knows_ranges: whether it serves parts of files.
        heeds_if_range: whether it serves the whole file to one who has a part of another version.
        tells_length: whether it says how many bytes will come.
        statuses: what the next requests are answered with, instead of a file.
        moved_to: where to send every request on to.
        cuts: after how many bytes the next answers break off.
        silent_requests: so many requests are not answered before the server is stopped.
        requests: the headers of each request so far.
        num_sent: bytes of files sent so far.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"first"'
    last_modified: str = ""
    knows_ranges: bool = True
    heeds_if_range: bool = True
    tells_length: bool = True
    statuses: list[int] = field(default_factory=list)
    moved_to: str = ""
    cuts: list[int] = field(default_factory=list)
    silent_requests: int = 0
    requests: list[Message] = field(default_factory=list)
    num_sent: int = 0
    url: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.headers)
        if self.silent_requests:
            self.silent_requests -= 1
            self.stopped.wait()
        elif self.statuses:
            request.send_error(self.statuses.pop(0))
        elif self.moved_to:
            request.send_response(302)
            request.send_header("Location", self.moved_to + request.path)
            request.end_headers()
        elif request.path.lstrip("/") in self.files:
            self.serve(request, self.files[request.path.lstrip("/")])
        else:
            request.send_error(404)

    def serve(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        wanted = request.headers.get("Range")
        version = self.etag or self.last_modified
        has_changed = self.heeds_if_range and request.headers.get("If-Range") != version
        begin = 0
        if wanted and self.knows_ranges and not has_changed:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                request.send_error(416)
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        if self.tells_length:
            request.send_header("Content-Length", str(len(content) - begin))
        for name, value in (("ETag", self.etag), ("Last-Modified", self.last_modified)):
            if value:
                request.send_header(name, value)
        request.end_headers()
        end = begin + self.cuts.pop(0) if self.cuts else len(content)
        request.wfile.write(content[begin:end])
        self.num_sent += len(content[begin:end])


@contextmanager
def running_server() -> Iterator[FileServer]:
    """Serve on a free port until the block ends."""
    site = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
