"""Who may ask: API keys, and what keeps the web pages of others away from a server on this machine.

A page that a user happens to visit can reach loopback too. Either it says so itself (the Origin header,
which browsers send with every request that could change anything), or its name was made to point here
(DNS rebinding; then the Host header is not ours). Keys are compared one by one, in constant time, and
nothing here is ever logged. Not covered: what other programs on this machine do without a key.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from mlxone.core.errors import UsageError
from mlxone.server.errors import Forbidden, Unauthorized
from mlxone.server.messages import Request

ANY = "*"
Origin = tuple[str, str, int | None]  # scheme, host, port
NO_ORIGIN: Origin = ("", "", None)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_SHOWN = 100  # characters of a header that a message repeats


class Guard:
    def __init__(
        self,
        *,
        api_keys: Iterable[str] = (),
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        own_name: str = "",
        checks_host: bool = False,
        compare: Callable[[bytes, bytes], bool] = hmac.compare_digest,
    ) -> None:
        """Where it is checked, the Host header may say `hosts`, `own_name` and any name of loopback."""
        self._keys = [sha256(checked_key(key)).digest() for key in api_keys]
        self._any_origin, self._origins = _origins(origins)
        # A page that may ask anyway wins nothing by pointing its name here.
        self._hosts = {checked_host(host) for host in hosts} | {host for _, host, _ in self._origins}
        self._hosts |= {own_name.lower()} - {"0.0.0.0", "::"}  # these are no names to call
        self.checks_host = checks_host
        self._compare = compare

    @property
    def needs_key(self) -> bool:
        return bool(self._keys)

    def admit(self, request: Request) -> str | None:
        """Returns what `access-control-allow-origin` may say: None where no page asks."""
        host = request.header(b"host")
        if self.checks_host and host is not None and not self._may_be_called(host):
            raise Forbidden(
                f"this server does not go by the name {host[:_SHOWN]!r}",
                hint="use localhost or 127.0.0.1, or have its operator allow the name",
            )
        origin = request.header(b"origin")
        if origin is None:
            return None
        if self._any_origin:
            return ANY
        if not (_parts(origin) in self._origins or _is_loopback_page(origin) or _is_same(origin, host)):
            raise Forbidden(
                f"pages from {origin[:_SHOWN]!r} may not use this server",
                hint="its operator can allow them with --allowed-origins",
            )
        return origin

    def check_key(self, request: Request) -> None:
        """Every key is compared with everything given, whatever the others said."""
        if not self._keys:
            return
        given = _given_keys(request)
        right = False
        for theirs in given:
            digest = sha256(theirs).digest()  # of one length, so that not even that can be told
            for ours in self._keys:
                right |= self._compare(ours, digest)
        if not right:
            said = "the API key is not right" if given else "an API key is needed"
            raise Unauthorized(said, hint="send it as `Authorization: Bearer KEY` or `x-api-key: KEY`")

    def _may_be_called(self, host: str) -> bool:
        if self._any_origin:
            return True
        name = _name_of(host)
        return name is not None and (is_loopback(name) or name in self._hosts)


def is_loopback(name: str) -> bool:
    """`localhost`, or an address that never leaves the machine."""
    if name == "localhost":
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def checked_key(key: str) -> bytes:
    if not key or not key.isprintable() or any(letter.isspace() for letter in key):
        # The key itself stays out of the message.
        raise UsageError("an API key has to have characters, and no spaces or line ends among them")
    return key.encode()


def checked_host(host: str) -> str:
    name = _name_of(host.lower())
    if not name or name != host.lower().strip("[]") or "*" in name:
        raise UsageError(f"not a host's name: {host[:_SHOWN]!r}", hint="for example models.example, no port")
    return name


def _origins(given: Iterable[str]) -> tuple[bool, set[Origin]]:
    """Whether any may call, and those that may."""
    found = [origin.strip().rstrip("/") for origin in given]
    for origin in found:
        if origin != ANY and ("*" in origin or _parts(origin) == NO_ORIGIN):
            raise UsageError(
                f"not an origin: {origin[:_SHOWN]!r}", hint="for example https://chat.example:8443, or *"
            )
    return ANY in found, {_parts(origin) for origin in found if origin != ANY}


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018  it raises where the port is no number
    except ValueError:
        return False
    if not (parts.scheme and parts.hostname) or "@" in parts.netloc:
        return False
    return text.lower() == f"{parts.scheme}://{parts.netloc}".lower()


def _given_keys(request: Request) -> list[bytes]:
    given = []
    scheme, _, key = (request.header(b"authorization") or "").strip().partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        given.append(key.strip())
    if own := (request.header(b"x-api-key") or "").strip():
        given.append(own)
    return [key.encode("latin-1") for key in given]


@lru_cache(maxsize=256)
def _name_of(host: str) -> str | None:
    """The name in a Host header, without its port, in lower case; None where there is none."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  it raises where the port is no number
        name = parts.hostname
    except ValueError:
        return None
    # Anything that a URL holds beside host and port has no place in the header.
    if name is None or parts.netloc != host or "@" in host:
        return None
    return name.removesuffix(".")


def _is_loopback_page(origin: str) -> bool:
    """A page served from this machine: a program of the user's own."""
    scheme, host, _ = _parts(origin)
    return scheme in _DEFAULT_PORTS and is_loopback(host)


def _is_same(origin: str, host: str | None) -> bool:
    """Our own page. A proxy before us may speak TLS, so the port that goes without saying may be either's."""
    scheme, name, port = _parts(origin)
    if host is None or scheme not in _DEFAULT_PORTS or not name:
        return False
    _, our_name, our_port = _parts(f"{scheme}://{host}")
    return (name, port) == (our_name, our_port)


@lru_cache(maxsize=256)
def _parts(origin: str) -> Origin:
    """In one spelling, the port always said; NO_ORIGIN where it is none."""
    if origin == "null":  # what a browser says of pages from files, and of those it does not trust
        return "null", "", None
    if not _is_origin(origin):
        return NO_ORIGIN
    parts = urlsplit(origin.lower())
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)
