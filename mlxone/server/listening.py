"""Sockets to listen on: addresses of this machine, and paths."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from mlxone.core.errors import UsageError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # a name's IPv6 address on a machine without IPv6


def allow_open_files(wanted: int) -> None:
    """Each connection is one; systems often allow 1,024 or fewer until somebody asks for more."""
    try:
        import resource
    except ImportError:  # not Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it: then fewer can connect
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def tcp_sockets(host: str, port: int) -> list[socket.socket]:
    """One for each address of that name. With port 0 they all get the same free port."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"no address for the host {host!r}: {error}") from None
    bound: list[socket.socket] = []
    refused: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            bound.append(_tcp(family, (address[0], port or _port(bound), *address[2:])))
        except OSError as error:
            refused = error
            if error.errno not in _NOT_HERE:
                break
    if refused is not None and (not bound or refused.errno not in _NOT_HERE):
        for listener in bound:
            listener.close()
        raise _cannot(f"{host}:{port}", refused)
    return bound


def _port(bound: list[socket.socket]) -> int:
    return int(bound[0].getsockname()[1]) if bound else 0


def _tcp(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _notice_the_dead(listener)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _notice_the_dead(listener: socket.socket) -> None:
    """A client whose machine vanished sends no end; accepted connections inherit that the kernel asks."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def unix_socket(path: str) -> socket.socket:
    """Only for the owner, from the first moment: nobody can connect before `listen`."""
    _clear(Path(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
    except OSError as error:
        listener.close()
        raise _cannot(path, error) from None
    return listener


def _clear(path: Path) -> None:
    """Take away what a server left behind that is no more, and nothing else."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing there, or bind will say what is wrong
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} exists and is no socket", hint="choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise _cannot(str(path), error) from None
    raise UsageError(f"another process listens on {path}", hint="stop it, or choose another path")


def _cannot(where: str, error: OSError) -> UsageError:
    return UsageError(f"cannot listen on {where}: {error.strerror or error}")


def inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def address(listener: socket.socket) -> str:
    """As a client writes it."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"
