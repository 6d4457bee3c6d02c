"""Our side of the Hub's client: its session, headers and rules, and how patient we are with a server.

The client is imported inside functions: it is not needed to run a model. Nothing here knows files.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from mlxone.core.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import HfApi

T = TypeVar("T")

# Else each request would tell which program started us, and a list of such programs would be fetched.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when the client is imported

_WORTH_A_RETRY = (408, 429, 500, 502, 503, 504)
# Before an @, at the start of an address: a password of somebody who wrote no scheme is one, too.
_USER = re.compile(r"(?:^|(?<=://))[^/\s]*@")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what, in seconds. Tests bring their own clock."""

    attempts: int = 6  # in a row without progress
    questions: int = 3  # attempts at what a person waits for
    first_wait: float = 1.0  # doubled each time
    longest_wait: float = 30.0
    longest_asked: float = 120.0  # what a server may ask for with Retry-After
    connect: float = 20.0
    read: float = 30.0  # of silence
    slow_window: float = 60.0  # a line that brings less than this in that time counts as dead
    slow_bytes: int = 4096
    now: Callable[[], float] = time.monotonic
    pause: Callable[[threading.Event, float], object] = threading.Event.wait  # ends early when it is set


PATIENCE = Patience()


class BrokenOff(Exception):
    """A body that ended early, or trickled in too slowly to ever end."""


class Damaged(Exception):
    """What arrives cannot be the file; the message says why in a few words."""


class Stopped(Exception):
    """Somebody else's failure, or Ctrl-C, ended this work."""


def is_true(variable: str) -> bool:
    """By the client's rules, but read at each call: it reads them once, when it is imported."""
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def is_offline() -> bool:
    return is_true("HF_HUB_OFFLINE") or is_true("TRANSFORMERS_OFFLINE")


def check_online(repo: str) -> None:
    if is_offline():
        raise offline(repo)


def offline(repo: str) -> HubError:
    return HubError(f"HF_HUB_OFFLINE is set, so {repo} cannot be fetched", hint="unset it")


def endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def shown_endpoint() -> str:
    """What every message calls the Hub."""
    return without_user(endpoint() or "the Hub")


def without_user(text: str) -> str:
    """An address, or a line with addresses, without names and passwords: it may be posted somewhere."""
    return _USER.sub("", text)


def what_to_check() -> str:
    """The hint where the Hub does not answer: what the user set on the way to it."""
    scheme = "http" if (endpoint() or "").startswith("http://") else "https"
    proxies = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    named = [
        name for name in ("HF_ENDPOINT", *proxies, "SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)
    ]
    *first, last = ["the network", *named]
    return f"check {', '.join(first)} and {last}" if first else f"check {last}"


def api() -> HfApi:
    from huggingface_hub import HfApi

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what goes wrong is ours to say
    return HfApi(endpoint=endpoint(), library_name="mlxone")


def file_url(repo: str, revision: str, name: str, *, kind: str = "model") -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, name, repo_type=kind, revision=revision, endpoint=endpoint())


def listing(path: str, query: Sequence[tuple[str, str]]) -> Any:
    """JSON from the Hub's API. The client's own calls would retry by rules and for times of their own."""
    from huggingface_hub import constants

    with opened(f"{endpoint() or constants.ENDPOINT}/api/{path}?{urlencode(query)}") as response:
        return json.loads(response.read())


@contextmanager
def opened(url: str, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """A streaming response that is no refusal. Its type belongs to the client's HTTP library."""
    from huggingface_hub import get_session, utils

    # As it lies there: a range of a compressed form is no range of the file.
    own = {"Accept-Encoding": "identity", **(headers or {})}
    sent = utils.build_hf_headers(library_name="mlxone", headers=own)  # type: ignore[attr-defined]
    timeout = (PATIENCE.connect, PATIENCE.read, PATIENCE.read, None)
    with get_session().stream("GET", url, headers=sent, timeout=timeout, follow_redirects=True) as response:
        utils.hf_raise_for_status(response)  # type: ignore[attr-defined]
        yield response


@dataclass(frozen=True, slots=True)
class SentRange:
    start: int
    end: int  # as Python counts: one behind the last
    size: int | None  # of the whole file, where it is said


def sent_range(response: Any) -> SentRange | None:
    """Which part of a file a partial answer says that it is."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None:
        return None
    return SentRange(int(found[1]), int(found[2]) + 1, None if found[3] == "*" else int(found[3]))


def etag_of(response: Any) -> str | None:
    """What the Hub calls the content. Of a redirected answer only the Hub's own word counts."""
    for answer in (*response.history, response):
        linked = answer.headers.get("X-Linked-Etag")
        if linked:
            return _bare(linked)
    own = response.headers.get("ETag")
    return _bare(own) if own and not response.history else None


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


class Retries:
    """Decides after each failure whether to try again, and waits before it."""

    def __init__(self, attempts: int | None = None, stop: threading.Event | None = None) -> None:
        self._attempts = attempts or PATIENCE.attempts
        self._stop = stop or threading.Event()
        self._failures = 0

    def progress(self) -> None:
        self._failures = 0

    def wait_after(self, error: Exception) -> None:
        """Returns when it is time to try again; raises the error when that is of no use."""
        self._failures += 1
        delay = _delay(error, self._failures)
        if delay is None or self._failures >= self._attempts:
            raise error
        PATIENCE.pause(self._stop, delay)
        if self._stop.is_set():
            raise Stopped


def patiently(question: Callable[[], T]) -> T:
    retries = Retries(PATIENCE.questions)
    while True:
        try:
            return question()
        except Exception as e:  # noqa: BLE001 - raised again unless it is one that may pass
            retries.wait_after(e)


def _delay(error: Exception, failures: int) -> float | None:
    """Seconds until the next attempt; None where none would help."""
    from huggingface_hub import errors

    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    delay = min(PATIENCE.first_wait * 2.0 ** (failures - 1), PATIENCE.longest_wait)
    if isinstance(error, errors.HfHubHTTPError):
        if error.response.status_code not in _WORTH_A_RETRY:
            return None
        asked = error.response.headers.get("Retry-After", "").strip()
        if asked.isdigit():
            return float(asked) if float(asked) <= PATIENCE.longest_asked else None
        return delay
    return delay if isinstance(error, (BrokenOff, http_error)) else None
