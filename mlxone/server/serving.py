"""A server as a value: started and stopped in any asyncio program, or on a thread of its own.

`Serving` owns its context: stopping one closes the other, so that what runs may finish first. It starts
once; who wants another server makes another context.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from mlxone import __version__
from mlxone.core.errors import ShuttingDown, UsageError
from mlxone.server.app import App
from mlxone.server.guard import Guard, is_loopback
from mlxone.server.http import HttpServer
from mlxone.server.limits import Limits
from mlxone.server.messages import ENDING
from mlxone.server.routes import ERRORS
from mlxone.service.context import Context

log = logging.getLogger(__name__)

HOST, PORT, GRACE = "127.0.0.1", 8090, 10.0
LAST_WORDS = 2.0  # seconds after the grace in which clients still hear how their answers ended


@dataclass(frozen=True, slots=True)
class Address:
    host: str = HOST
    port: int = PORT  # 0: any free one
    uds: str | None = None  # a socket file in place of both

    def arguments(self) -> dict[str, Any]:
        return {"uds": self.uds} if self.uds is not None else {"host": self.host, "port": self.port}

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.uds or f"{host}:{self.port}"


class Serving:
    """What `create_server` returns."""

    def __init__(self, app: App, http: HttpServer, address: Address, *, grace: float) -> None:
        self.context = app.shared.context
        self.counters = app.shared.counters
        self.counters.connections = lambda: http.open_connections
        self._app, self._http, self._address, self._grace = app, http, address, grace
        self._used = False
        self._running = False
        self._thread: _Thread | None = None

    @property
    def url(self) -> str:
        """Where clients find it: `http://127.0.0.1:8090`, or `unix:/path` for a socket file."""
        if not self._http.addresses:
            raise UsageError("the server has no address before it is started")
        return _for_clients(self._http.addresses[0])

    @property
    def port(self) -> int | None:
        """The port that was really taken; None for a socket file."""
        return urlsplit(self.url).port

    async def start(self) -> None:
        """Listens, then makes the context ready. Requests that come in between wait.

        Stopped meanwhile it raises a ShuttingDown.
        """
        if self._used:
            raise UsageError("a server starts only once", hint="make another one with a context of its own")
        self._used = self._running = True
        try:
            await self._listen()
            self._check_running()
            await self.context.start()
            self._check_running()
        except BaseException:
            # The context is closed by who stopped us; where we could not listen it was not touched.
            await (self._end(0.0) if self._running else self._http.close(0.0))
            raise
        self._app.enter("ok")

    def _check_running(self) -> None:
        if not self._running:
            raise ShuttingDown(ENDING)

    async def stop(self) -> None:
        """Takes nothing new, lets what runs finish for the grace, then ends the rest."""
        if self._running:
            await self._end(self._grace)

    async def serve_forever(self, *, stop: asyncio.Event) -> None:
        """Starts, waits for the event, stops. Told while it starts, it does not wait for the models."""
        starting, told = asyncio.create_task(self.start()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                await told
        finally:
            for task in (starting, told):
                task.cancel()
            await asyncio.wait({starting, told})
            await self.stop()

    async def __aenter__(self) -> Serving:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def __enter__(self) -> Serving:
        """For programs without an event loop: the server gets one, on a thread of its own."""
        self._thread = _Thread(self)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.stop()

    async def _listen(self) -> None:
        try:
            await self._http.listen(**self._address.arguments())
        except UsageError:
            self._running = False
            raise
        except OSError as error:  # taken by another between our look and our listening
            self._running = False
            raise UsageError(f"cannot listen on {self._address}: {error.strerror or error}") from None
        if self._address.uds is not None:
            return
        # By what was taken, not by its name: that of a machine may mean loopback as well.
        if all(is_loopback(urlsplit(address).hostname or "") for address in self._http.addresses):
            self._app.guard.checks_host = True
        elif not self._app.guard.needs_key:
            log.warning(
                "%s can be reached from other machines and asks nobody for a key: give --api-key (api_keys),"
                " and --allowed-hosts (allowed_hosts) with the names it goes by",
                self._address,
            )

    async def _end(self, grace: float) -> None:
        self._running = False
        self._app.enter("draining")
        # Both at once: answers end within the grace, and the loop then has time to say so.
        ends = await asyncio.gather(
            self.context.close(grace), self._http.close(grace + LAST_WORDS), return_exceptions=True
        )
        for end in ends:
            if end is not None:
                raise end


class _Thread:
    """An event loop for one server. What fails at its start or end is raised where it was asked for."""

    def __init__(self, server: Serving) -> None:
        self._server = server
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="mlxone-server", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.result()

    def stop(self) -> None:
        loop, told = self._started.result()
        loop.call_soon_threadsafe(told.set)
        self._thread.join()
        self._ended.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  it belongs to the thread that waits
            (self._ended if self._started.done() else self._started).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        async with self._server:
            told = asyncio.Event()
            self._started.set_result((asyncio.get_running_loop(), told))
            await told.wait()


def create_server(
    context: Context,
    *,
    host: str = HOST,
    port: int = PORT,
    uds: str | None = None,
    api_keys: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
    limits: Limits | None = None,
    grace: float = GRACE,
) -> Serving:
    """A server of what the context answers, not yet started.

    `async with` it inside an asyncio program; a plain `with` runs it on a thread of its own. `port=0` takes a
    free one, `uds` is a socket file instead. `grace` is how many seconds answers may go on at the end.
    """
    _check(host=host, port=port, uds=uds, limits=limits, grace=grace)
    _check_texts(api_keys=api_keys, allowed_origins=allowed_origins, allowed_hosts=allowed_hosts)
    address = Address(host, port, uds)
    guard = Guard(
        api_keys=api_keys,
        origins=allowed_origins,
        hosts=allowed_hosts,
        own_name=host,
        checks_host=uds is None and bool(allowed_hosts),  # on loopback in any case, see `_listen`
    )
    app = App(context, guard=guard)
    http = HttpServer(
        app,
        limits=limits or Limits(),
        server_name=f"mlxone/{__version__}",
        malformed=ERRORS,
        refused=app.shared.counters.refused,
    )
    return Serving(app, http, address, grace=grace)


def _check(*, host: object, port: object, uds: object, limits: object, grace: object) -> None:
    if not isinstance(host, str):
        raise UsageError(f"host is a text, not {host!r}")
    if not isinstance(port, int) or isinstance(port, bool):
        raise UsageError(f"port is a whole number, not {port!r}")
    if not 0 <= port <= 65_535:
        raise UsageError(f"port must be between 0 and 65535, not {port}")
    if not isinstance(uds, str | None):
        raise UsageError(f"uds is a path as text, not {uds!r}")
    if not isinstance(limits, Limits | None):
        raise UsageError(f"limits are mlxone.server.limits.Limits, not {limits!r}")
    if not isinstance(grace, int | float) or isinstance(grace, bool):
        raise UsageError(f"grace is a number of seconds, not {grace!r}")
    if not grace >= 0:
        raise UsageError(f"grace must be at least 0, not {grace}")


def _check_texts(**lists: object) -> None:
    """What they hold is not repeated: it may be a key."""
    for name, given in lists.items():
        # One text would be a list of its letters.
        if isinstance(given, str) or not isinstance(given, Collection):
            raise UsageError(f"{name} is a list of texts, not one value")
        if not all(isinstance(each, str) for each in given):
            raise UsageError(f"{name} is a list of texts, and something else is in it")


def _for_clients(address: str) -> str:
    """One that listens everywhere is not called by that name."""
    parts = urlsplit(address)
    if parts.scheme == "http" and parts.hostname and ip_address(parts.hostname).is_unspecified:
        return f"http://{'[::1]' if ':' in parts.hostname else '127.0.0.1'}:{parts.port}"
    return address
