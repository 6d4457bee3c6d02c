"""Small files and byte ranges of a repo that is not on this machine. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlxone.core.errors import HubError
from mlxone.hub import client
from mlxone.hub.client import BrokenOff
from mlxone.hub.trouble import explained


def remote_file(repo: str, revision: str, name: str, *, limit: int) -> bytes:
    """A whole file of at most `limit` bytes; a larger one is an error, and is not read."""

    def read(response: Any) -> bytes:
        announced = response.headers.get("Content-Length", "")
        too_large = announced.isdigit() and int(announced) > limit
        found = b"" if too_large else _head(response, limit + 1)
        if too_large or len(found) > limit:
            raise HubError(f"{name} of {repo} is larger than {limit:,} bytes")
        return found

    return _ask(repo, revision, name, {}, read)


def remote_range(repo: str, commit: str, name: str, start: int, end: int) -> bytes:
    """The bytes from `start` up to `end`, fewer only where the file ends before.

    A server that ignores ranges sends all from the beginning; then what comes before is read too, and
    what comes after is not.
    """
    if start >= end:
        return b""

    def read(response: Any) -> bytes:
        if response.status_code != 206:
            return _head(response, end)[start:]
        sent = client.sent_range(response)
        if sent is None or sent.start != start:
            raise HubError(f"the Hub sent another part of {name} of {repo} than asked for")
        return _head(response, end - start)

    return _ask(repo, commit, name, {"Range": f"bytes={start}-{end - 1}"}, read)


def _ask(repo: str, revision: str, name: str, headers: dict[str, str], read: Callable[[Any], bytes]) -> bytes:
    def once() -> bytes:
        with client.opened(client.file_url(repo, revision, name), headers) as response:
            return read(response)

    client.check_online(repo)
    with explained(repo, revision, name):
        try:
            return client.patiently(once)
        except BrokenOff as e:
            raise HubError(f"{name} of {repo} {e}", hint="try again") from e


def _head(response: Any, most: int) -> bytes:
    """Not more than so many bytes; the connection is closed with the rest unread."""
    found = bytearray()
    for chunk in response.iter_raw():
        found += chunk
        if len(found) >= most:
            return bytes(found[:most])
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > len(found):
        raise BrokenOff("arrived incomplete")
    return bytes(found)
