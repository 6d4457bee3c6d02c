"""Becomes another program in a root folder of its own: no network but loopback, no rights, nothing else.

    python jail.py '{"root": …, "path": …, "argv": […], "env": {…}, "cwd": …, "binds": […], "tmpfs": {…}}'
    python jail.py '{"join": PID, …}'   beside a program that is in one: its network, this machine's files

With "listing": FILE it waits for the program, and then writes down what is in the folders of "tmpfs", which
nobody else can see and which end with it.

By Linux's user namespaces, so it works for root and for anybody else alike; standard library only. Inside,
the user is 1000 and has no capability, whoever it is outside. Where that is forbidden it ends with 125 and
one line.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

INSIDE = 1000  # the user's and the group's number in there
REFUSED = 125  # our own exit code, as `env` and `chroot` use it

_NEW_FILES, _NEW_USERS, _NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
_READ_ONLY, _REMOUNT, _BIND, _WHOLE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    wish = json.loads(sys.argv[1])
    try:
        if "join" in wish:
            _join(wish["join"])
        else:
            _leave()
            _furnish(Path(wish["root"]), wish)
            if "listing" in wish and (child := os.fork()):
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                _list(wish)
                sys.exit(code)
            os.chroot(wish["root"])
        os.chdir(wish.get("cwd", "/"))
    except OSError as error:
        print(f"jail: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    os.umask(0o022)
    os.execve(wish["path"], wish["argv"], wish["env"])  # gives up all capabilities: the user is not 0


def _leave() -> None:
    """Into new namespaces, in which we may do as root does."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _NEW_USERS | _NEW_FILES | _NEW_NETWORK)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE} {group} 1")
    _mount(None, "/", None, _WHOLE | _PRIVATE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        named = struct.pack("16sh14x", b"lo", 0)
        [flags] = struct.unpack_from("h", fcntl.ioctl(any_socket, _GET_FLAGS, named), 16)
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _join(pid: int) -> None:
    for kind in ("user", "net"):
        descriptor = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        _call("setns", descriptor, 0)
        os.close(descriptor)


def _furnish(root: Path, wish: dict[str, Any]) -> None:
    """What the folder shows of this machine, and how much room there is in it."""
    for place in wish.get("binds", ()):
        _mount(place, root / place.lstrip("/"), None, _BIND | _WHOLE)
    for place, size in wish.get("tmpfs", {}).items():
        _mount("tmpfs", root / place.lstrip("/"), "tmpfs", 0, f"{size},mode=0777")
    for place in wish.get("read_only", ()):
        inside = root / place.lstrip("/")
        _mount(inside, inside, None, _BIND)
        _mount(None, inside, None, _BIND | _REMOUNT | _READ_ONLY)


def _list(wish: dict[str, Any]) -> None:
    folders = [Path(wish["root"] + place) for place in wish["tmpfs"]]
    found = [str(path.relative_to(wish["root"])) for folder in folders for path in folder.rglob("*")]
    Path(wish["listing"]).write_text(json.dumps(sorted(found)))


def _mount(what: str | Path | None, where: str | Path, kind: str | None, flags: int, data: str = "") -> None:
    source, form = (None if part is None else os.fsencode(part) for part in (what, kind))
    _call("mount", source, os.fsencode(where), form, ctypes.c_ulong(flags), data.encode() or None)


def _call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
