"""Whether the Hub answers: one small question with the client's own session, proxies and token."""

from __future__ import annotations

import json
import queue
import threading
import time
from dataclasses import dataclass

from mlxone.core.errors import HubError
from mlxone.hub import client
from mlxone.hub.trouble import explained

SECONDS = 6.0
MOST = 1 << 16  # bytes of an answer that is expected to have a few hundred
REFUSALS = (401, 403, 429)  # that are the Hub's own


@dataclass(frozen=True, slots=True)
class Reached:
    endpoint: str
    seconds: float


def reach(seconds: float = SECONDS) -> Reached:
    """Raises a HubError otherwise. A resolver's patience has no setting: it is left behind in a thread."""
    answers: queue.SimpleQueue[Reached | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_ask(seconds))
        except Exception as error:  # noqa: BLE001 - raised again by who waits
            answers.put(error)

    threading.Thread(target=ask, name="reach", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise HubError(
            f"{client.shown_endpoint()} does not answer within {seconds:g} seconds",
            hint=client.what_to_check(),
        ) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _ask(seconds: float) -> Reached:
    with explained("the list of models", None):
        from huggingface_hub import constants, get_session, utils

        hub = client.endpoint() or constants.ENDPOINT
        headers = utils.build_hf_headers(library_name="mlxone")  # type: ignore[attr-defined]
        start = time.monotonic()
        with get_session().stream(
            "GET", f"{hub}/api/models?limit=1", headers=headers, timeout=seconds, follow_redirects=True
        ) as response:
            if 400 <= response.status_code < 500 and response.status_code not in REFUSALS:
                raise _stranger(f"its status is {response.status_code}:")
            utils.hf_raise_for_status(response)  # type: ignore[attr-defined]
            body = b""
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > MOST:
                    break
        if not _is_list(body):
            raise _stranger("a login page?")
        return Reached(client.without_user(hub), time.monotonic() - start)


def _stranger(sign: str) -> HubError:
    message = f"{client.shown_endpoint()} answers, but not as the Hub does"
    return HubError(message, hint=f"{sign} {client.what_to_check()}")


def _is_list(body: bytes) -> bool:
    """What stands between us and the Hub answers, too: pages for a person to log in."""
    try:
        return isinstance(json.loads(body), list)
    except (ValueError, RecursionError):
        return False
