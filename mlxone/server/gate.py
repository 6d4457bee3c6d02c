"""What may go on to h11: heads and bodies written exactly as the standard has them.

h11 forgives what sloppy senders do: a line may end with a bare LF, a header may be folded, a value may hold
control bytes, a chunk's size may be followed by blanks. Two readers of the same bytes who forgive differently
can be made to see different requests in them (request smuggling), so nothing is forgiven here.

Pure: each gate cuts from the front of an inbox what may pass, or raises the HttpError to answer with.
"""

from __future__ import annotations

import re

import h11

from mlxone.server.errors import HeadTooLarge, HttpError, UnknownCoding

CRLF = b"\r\n"
MOST_HEADERS = 256  # each costs h11 some time; clients send about ten
_CHUNK_LINE = 256  # bytes of a chunk's size with its extensions
_TRAILER = 8_192  # bytes of headers behind the last chunk; nobody reads them
_RUN = 64  # chunk lines admitted in one go, so that no client keeps the loop for itself

_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = _NAME + rb":[\t\x20-\x7e\x80-\xff]*\r\n"
_LINE = _NAME + rb" [\x21-\x7e]+ HTTP/1\.[01]\r\n"
_request_line = re.compile(_LINE)
_head = re.compile(_LINE + rb"(?:" + _FIELD + rb"){0,%d}\r\n" % MOST_HEADERS)
_trailer = re.compile(rb"(?:" + _FIELD + rb")*\r\n")
_chunk_size = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_bare_lf = re.compile(rb"(?<!\r)\n")
_host = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]*)?")

# The first that is found in a head names its fault.
_FAULTS = (
    (_bare_lf, "a line ends with LF instead of CRLF"),
    (re.compile(rb"\r(?!\n)"), "a CR without LF"),
    (re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "control bytes in the head"),
    (re.compile(rb"\r\n[ \t]"), "a folded header; obsolete, and refused"),
)


class HeadGate:
    """Request line and headers, however many pieces they come in."""

    __slots__ = ("_limit", "_line_seen", "_seen", "_skipped")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._seen = 0  # bytes that need no second look
        self._line_seen = False
        self._skipped = False

    def take(self, inbox: bytearray) -> bytes | None:
        """A whole head, or None while there is more to come."""
        if not self._seen and inbox[:1] == b"\r" and not self._skipped:
            # One empty line before a request is what the standard forgives, and so do all servers.
            if len(inbox) < 2:
                return None
            self._skipped = inbox[:2] == CRLF
            if self._skipped:
                del inbox[:2]
        end = inbox.find(b"\r\n\r\n", max(0, self._seen - 3)) + 4
        if end < 4:
            self._refuse_early(inbox)
            return None
        if end > self._limit:
            raise HeadTooLarge(f"request line and headers of more than {self._limit} bytes")
        head = bytes(inbox[:end])
        if not _head.fullmatch(head):
            raise _fault(head)
        del inbox[:end]
        self._reset()
        return head

    def _refuse_early(self, inbox: bytearray) -> None:
        """What can only become wrong is not waited for."""
        if len(inbox) > self._limit:
            raise HeadTooLarge(f"request line and headers of more than {self._limit} bytes")
        if not self._seen and inbox and inbox[0] <= 0x20:
            raise _fault(bytes(inbox))
        if _bare_lf.search(inbox, self._seen):
            raise _fault(bytes(inbox))
        if not self._line_seen and (end := inbox.find(CRLF, max(0, self._seen - 1))) >= 0:
            self._line_seen = True
            if not _request_line.match(inbox[: end + 2]):
                raise _fault(bytes(inbox))
        self._seen = len(inbox)


def _fault(head: bytes) -> HttpError:
    if head.startswith(b"\x16\x03"):
        return HttpError("this is TLS; the server speaks plain HTTP", hint="use http:// instead of https://")
    for pattern, what in _FAULTS:
        if pattern.search(head):
            return HttpError(f"not HTTP as it has to be: {what}")
    if not _request_line.match(head):
        line = head.partition(CRLF)[0][:80].decode("latin-1")
        return HttpError(f"not a request line of HTTP/1.0 or HTTP/1.1: {line!r}")
    if head.count(CRLF) > MOST_HEADERS + 2:
        return HeadTooLarge(f"more than {MOST_HEADERS} headers")
    return HttpError("not HTTP as it has to be: a malformed header line")


class Counted:
    """A body of announced length: that much passes, what follows stays."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left = length

    def admit(self, inbox: bytearray) -> bytes:
        piece = bytes(inbox[: self.left])
        del inbox[: len(piece)]
        self.left -= len(piece)
        return piece


class Chunked:
    """A body in chunks, with its trailer."""

    __slots__ = ("_in_chunk", "_in_trailer", "_over", "left")

    def __init__(self) -> None:
        self._in_chunk = 0  # bytes of the present chunk still to pass, its CRLF included
        self._in_trailer = self._over = False
        self.left = None  # nobody knows

    def admit(self, inbox: bytearray) -> bytes:
        """All that may pass by now, or a good part of it; b"" when more has to come first."""
        end = 0
        for _ in range(_RUN):
            step = 0 if self._over else self._step(inbox, end)
            if not step:
                break
            end += step
        piece = bytes(inbox[:end])
        del inbox[:end]
        return piece

    def _step(self, inbox: bytearray, start: int) -> int:
        if self._in_chunk:
            size = min(self._in_chunk, len(inbox) - start)
            self._in_chunk -= size
            return size
        if self._in_trailer:
            return self._trailer(inbox, start)
        end = inbox.find(CRLF, start, start + _CHUNK_LINE)
        if end < 0:
            # A trailing CR may still get its LF.
            if len(inbox) - start >= _CHUNK_LINE or inbox.find(b"\n", start) >= 0:
                raise HttpError("a chunk's size has to be hex digits and end with CRLF")
            return 0
        if not (found := _chunk_size.fullmatch(inbox, start, end)):
            raise HttpError("a chunk's size has to be hex digits and end with CRLF")
        size = int(found[1], 16)
        if size:
            self._in_chunk = size + 2  # h11 looks whether the last two are CRLF
        self._in_trailer = not size
        return end + 2 - start

    def _trailer(self, inbox: bytearray, start: int) -> int:
        if inbox.startswith(CRLF, start):
            end = start + 2
        elif (found := inbox.find(b"\r\n\r\n", start, start + _TRAILER)) >= 0:
            end = found + 4
        elif len(inbox) - start >= _TRAILER:
            raise HeadTooLarge(f"trailers of more than {_TRAILER} bytes")
        elif _bare_lf.search(inbox, start):
            raise HttpError("a trailer line ends with LF instead of CRLF")
        else:
            return 0
        if not _trailer.fullmatch(inbox, start, end):
            raise HttpError("malformed trailers")
        self._over = True
        return end - start


def framing(asked: h11.Request) -> Counted | Chunked:
    """How the body of a request is delimited; what could be read in two ways is refused."""
    length: bytes | None = None
    chunked = False
    for name, value in asked.headers:
        if name == b"content-length":
            length = value
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"host" and not _host.fullmatch(value):
            raise HttpError("the Host header names no host")
    if not chunked:
        return Counted(int(length or 0))
    if length is not None:
        raise HttpError("a request has either Content-Length or Transfer-Encoding, not both")
    if asked.http_version != b"1.1":
        raise HttpError("Transfer-Encoding is of HTTP/1.1 only")
    return Chunked()


def malformed(error: h11.RemoteProtocolError) -> HttpError:
    """h11's refusal in our words."""
    family = {431: HeadTooLarge, 501: UnknownCoding}.get(error.error_status_hint, HttpError)
    return family(f"not HTTP as it has to be: {error}")
