"""One file's bytes over the network: in several ranges at once, with patience, into a partial file.

A server that ignores ranges sends the whole file instead: then one connection takes it and the
others let go. What arrives is not trusted here; the hash of the whole file is checked afterwards.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

from mlxone.core.errors import HubError
from mlxone.hub import client
from mlxone.hub.client import BrokenOff, Damaged, Retries, Stopped
from mlxone.hub.crew import Crew
from mlxone.hub.partial import Partial
from mlxone.hub.repo import File, Plan

CONNECTIONS = 8
SMALLEST_PIECE, LARGEST_PIECE = 8 << 20, 64 << 20  # bytes of one request


class Transfer:
    """Everything one file's connections share."""

    def __init__(self, plan: Plan, file: File, crew: Crew, stop: threading.Event) -> None:
        self._repo, self._file = plan.repo, file
        self._url = client.file_url(plan.repo, plan.commit, file.name, kind=plan.kind)
        self._crew, self._stop = crew, stop
        self._whole = threading.Lock()  # held by the connection that takes the whole file

    def fetch(self, partial: Partial) -> None:
        """Returns when every byte is there."""
        while pieces := list(self._pieces(partial)):
            if self._stop.is_set():
                raise Stopped
            jobs = [self._crew.submit(functools.partial(self._piece, partial, *piece)) for piece in pieces]
            # All have to have ended before the partial file may be closed.
            errors = [error for job in wait(jobs).done if (error := job.exception())]
            if errors:
                raise min(errors, key=_says_least)

    def _pieces(self, partial: Partial) -> Iterator[tuple[int, int]]:
        step = min(max(self._file.size // CONNECTIONS, SMALLEST_PIECE), LARGEST_PIECE)
        for start, end in partial.gaps():
            for begin in range(start, end, step):
                yield begin, min(begin + step, end)

    def _piece(self, partial: Partial, start: int, end: int) -> None:
        try:
            self._patiently(partial, start, end)
        except BrokenOff as e:
            self._stop.set()
            reason = f"{self._file.name} of {self._repo} {e}"
            raise HubError(reason, hint="try again: it goes on from there") from e
        except BaseException as e:
            if not isinstance(e, Damaged):  # that may be better next time; all else ends everything
                self._stop.set()
            raise

    def _patiently(self, partial: Partial, start: int, end: int) -> None:
        retries = Retries(stop=self._stop)
        while gaps := partial.gaps(start, end):
            first, last = gaps[0]
            held = partial.held
            try:
                if not self._stream(partial, first, last):
                    return
            except Exception as e:  # noqa: BLE001 - raised again unless it is one that may pass
                if partial.held - held >= min(client.PATIENCE.slow_bytes, last - first):
                    retries.progress()
                retries.wait_after(e)
            finally:
                partial.flush()

    def _stream(self, partial: Partial, start: int, end: int) -> bool:
        """False where another connection already takes the whole file."""
        if self._stop.is_set():
            raise Stopped
        alone = (start, end) == (0, self._file.size)
        with client.opened(self._url, {} if alone else {"Range": f"bytes={start}-{end - 1}"}) as response:
            self._check_etag(response)
            if response.status_code == 206:
                self._check_range(response, start, end)
                self._receive(response, partial, start, end)
                return True
            if not self._whole.acquire(blocking=False):
                return False
            try:
                self._check_length(response)
                self._receive(response, partial, 0, self._file.size)
                return True
            finally:
                self._whole.release()

    def _receive(self, response: Any, partial: Partial, start: int, end: int) -> None:
        offset, pulse = start, _Pulse()
        for chunk in response.iter_raw():
            if self._stop.is_set():
                raise Stopped
            if offset + len(chunk) > end:
                raise Damaged("more bytes than it has")
            partial.write(offset, chunk)
            offset += len(chunk)
            pulse.beat(len(chunk))
        if offset < end:
            raise BrokenOff("arrived incomplete")

    def _check_etag(self, response: Any) -> None:
        etag = client.etag_of(response)
        if etag is not None and etag != self._file.etag:
            raise HubError(
                f"{self._file.name} of {self._repo} changed on the Hub during the download", hint="try again"
            )

    def _check_range(self, response: Any, start: int, end: int) -> None:
        sent = client.sent_range(response)
        if sent is None or (sent.start, sent.end) != (start, end) or sent.size not in (None, self._file.size):
            named = response.headers.get("Content-Range") or "unnamed ones"
            raise Damaged(f"bytes {start}-{end - 1} asked for, {named} sent")

    def _check_length(self, response: Any) -> None:
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != self._file.size:
            raise Damaged(f"{length} bytes, not {self._file.size}")


def _says_least(error: BaseException) -> int:
    """Of several failures the one that ended the others is the news; damage may heal, it does not."""
    return 2 if isinstance(error, Stopped) else 1 if isinstance(error, Damaged) else 0


class _Pulse:
    """Notices a line that never falls silent for long and yet brings next to nothing."""

    def __init__(self) -> None:
        self._since, self._bytes = client.PATIENCE.now(), 0

    def beat(self, count: int) -> None:
        self._bytes += count
        now = client.PATIENCE.now()
        if now - self._since < client.PATIENCE.slow_window:
            return
        if self._bytes < client.PATIENCE.slow_bytes:
            raise BrokenOff("arrives too slowly to ever end")
        self._since, self._bytes = now, 0
