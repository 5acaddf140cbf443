"""Hosts on this machine: network namespaces on one bridge, each with a name and a cable of its own.

    with Hosts(4) as hosts:
        subprocess.run(hosts.command(0, ["hostname"]))   # a program on the first host
        hosts.enter(1)                                    # this process, for good
        hosts.pull_cable(2); hosts.plug_in(2)

Processes on them share the machine's files, as a cluster's hosts share a file system.
"""

import ctypes
import os
import shlex
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_NEW_HOST_NAME, _NEW_NETWORK = 0x04000000, 0x40000000


def why_no_hosts() -> str:
    """Return why this machine cannot have hosts of its own; empty where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "nsenter", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (packages iproute2 and util-linux)"
    name = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return "" if made.returncode == 0 else f"ip netns add: {made.stderr.strip()}"


@dataclass(frozen=True)
class Hosts:
    """So many hosts `h1, h2, ...`, with the addresses `10.X.Y.1, 10.X.Y.2, ...`.

    Use as a context manager, which takes them down again; it ends no process on them.
    """

    num_hosts: int
    owner: int = field(default_factory=os.getpid)

    @property
    def _subnet(self) -> str:
        return f"10.{100 + self.owner // 250 % 100}.{self.owner % 250}"

    @property
    def _bridge(self) -> str:
        return f"b{self.owner}"

    def _namespace(self, host: int) -> str:
        return f"n{self.owner}-{host + 1}"

    def _cable(self, host: int) -> str:
        return f"c{self.owner}-{host + 1}"

    def _hosts_file(self, host: int) -> Path:
        return Path("/etc/netns") / self._namespace(host) / "hosts"

    def name(self, host: int) -> str:
        """Return the name of a host."""
        return f"h{host + 1}"

    def address(self, host: int) -> str:
        """Return the address of a host."""
        return f"{self._subnet}.{host + 1}"

    def __enter__(self) -> Self:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        # Its own name first on its line, for that is what a host gives to others as its address.
        names = [f"{self.address(host)} {self.name(host)}" for host in range(self.num_hosts)]
        content = "\n".join(["127.0.0.1 localhost", *names, ""])
        for host in range(self.num_hosts):
            space, cable = self._namespace(host), self._cable(host)
            _ip("netns", "add", space)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", cable, "master", self._bridge, "up")
            _ip("-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")
            self._hosts_file(host).parent.mkdir(parents=True)
            self._hosts_file(host).write_text(content)
        return self

    def __exit__(self, *exception: object) -> None:
        for host in range(self.num_hosts):
            _ip("link", "del", self._cable(host), check=False)
            _ip("netns", "del", self._namespace(host), check=False)
            shutil.rmtree(self._hosts_file(host).parent, ignore_errors=True)
        _ip("link", "del", self._bridge, check=False)

    def command(self, host: int, command: list[str]) -> list[str]:
        """Return the command that runs another one on a host."""
        hosts_file = shlex.quote(str(self._hosts_file(host)))
        script = f"hostname {self.name(host)} && mount --bind {hosts_file} /etc/hosts && "
        script += f"exec {shlex.join(command)}"
        apart = ["unshare", "--uts", "--mount", "--propagation", "slave", "--"]
        namespace = f"--net=/run/netns/{self._namespace(host)}"
        return ["nsenter", namespace, *apart, "sh", "-c", script]

    def enter(self, host: int) -> None:
        """Move this process, which has one thread, to a host; the names of others stay unknown."""
        libc = ctypes.CDLL(None, use_errno=True)
        namespace = os.open(f"/run/netns/{self._namespace(host)}", os.O_RDONLY)
        if libc.setns(namespace, _NEW_NETWORK) or libc.unshare(_NEW_HOST_NAME):
            raise OSError(ctypes.get_errno(), "cannot enter a host")
        os.close(namespace)
        socket.sethostname(self.name(host))

    def pull_cable(self, host: int) -> None:
        """Cut a host off, without a word to either side; also from on a host."""
        self._set_cable(host, "down")

    def plug_in(self, host: int) -> None:
        """Connect a host again."""
        self._set_cable(host, "up")

    def _set_cable(self, host: int, state: str) -> None:
        outside = ["nsenter", f"--net=/proc/{self.owner}/ns/net"]
        subprocess.run([*outside, "ip", "link", "set", self._cable(host), state], check=True)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=not check)
