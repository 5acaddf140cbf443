"""Messages between the watching threads: JSON, one object a line, over TCP."""

import errno
import json
import socket
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

MAX_LINE_BYTES = 16_384


class Lost(Exception):
    """A connection has ended.

    Attributes:
        by_peer: whether the other process ended it, and not the network.
    """

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__(str(error or "closed"))
        by_peer = (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)
        self.by_peer = error is None or error.errno in by_peer


class Line:
    """A connection that carries messages.

    Args:
        connection: connected.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._unread = connection, b""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """Return what a selector waits for."""
        return self._socket.fileno()

    def notice_silence_after(self, seconds: float) -> None:
        """Let the kernel end the connection when the other host is unreachable for so long.

        The kernel does that by itself, whatever this process is busy with.
        """
        for name, value in (
            ("TCP_USER_TIMEOUT", 1000 * seconds),
            ("TCP_KEEPIDLE", seconds / 2),
            ("TCP_KEEPINTVL", seconds / 6),
            ("TCP_KEEPCNT", 3),
        ):
            if hasattr(socket, name):
                option = getattr(socket, name)
                with suppress(OSError):
                    self._socket.setsockopt(socket.IPPROTO_TCP, option, max(1, round(value)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def send(self, message: Message) -> None:
        """Send a message; where the other side has read nothing for long, leave it out.

        Raises:
            Lost: the connection has ended.
        """
        content = json.dumps(message).encode() + b"\n"
        try:
            sent = self._socket.send(content)
        except BlockingIOError:
            return
        except OSError as error:
            raise Lost(error) from error
        if sent < len(content):  # it has read nothing for so long that it cannot go on
            self.close()
            raise Lost

    def receive(self) -> list[Message]:
        """Return the messages that have come.

        Raises:
            Lost: the connection has ended.
            ValueError: what came is no message.
        """
        try:
            content = self._socket.recv(65_536)
        except BlockingIOError:
            return []
        except OSError as error:
            raise Lost(error) from error
        if not content:
            raise Lost
        *lines, self._unread = (self._unread + content).split(b"\n")
        if len(self._unread) > MAX_LINE_BYTES:
            raise ValueError("a line without an end")
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("a line that is no object")
        return messages

    def finish_sending(self) -> None:
        """Tell the other side that nothing more comes."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def listen(num_connections: int) -> socket.socket:
    """Return a socket that listens on all addresses of this host."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(
        ("", 0), family=family, backlog=num_connections, dualstack_ipv6=dual
    )
