"""The decode loop: read the prompt in chunks, then draw token after token.

The next step is submitted before the last token is read, so the device never waits for Python;
only the first token is read at once, because somebody waits for it. With one row the arithmetic is
the plain forward pass: chunks of the prompt, its last token alone, then one token at a time.
Which decoder computes is on the row: the base, or one that adapters have changed.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from mlxone.backend.arrays import check_memory, lock, mx, on_stream
from mlxone.core.words import Progress
from mlxone.engine.row import Drawn, Pending, Row

# Buffers of outgrown layer states are handed back this often, in steps.
CLEAN_EVERY = 256
SHORT = 64  # tokens


def prefill(row: Row, step: int, stops: Sequence[int] = ()) -> Generator[Progress, None, None]:
    """Reads all but the prompt's last token, `step` at a time, and pauses at each of `row.stops(…)`.

    What Progress says is read is in the state by then: at a stop it may be kept.

    A chunk is submitted a few layers at a time, and the next one when it is done, so that no more
    than a few layers' transients are in memory. The device waits for less than 1 % of a chunk. A short
    one has few transients, and waiting at each layer would double its time.
    """
    total = len(row.ids)
    ends = sorted({*stops, total - 1})
    try:
        while (read := len(row.fed)) < total - 1:
            end = next(end for end in ends if end > read)
            chunk = row.ids[read : min(read + step, end)]
            with lock, on_stream():
                row.check()
                row.decoder.hidden(mx.array([chunk]), row.state, paced=len(chunk) > SHORT)
                mx.eval(row.state.arrays())
                check_memory()
                row.fed += chunk
            yield Progress(len(row.fed), total)
    finally:
        row.settle()


def decode(row: Row, max_tokens: int) -> Generator[Drawn, None, None]:
    """Draws up to `max_tokens`, one at a time; the prompt is all read but for its last token.

    Closing the iterator takes back the step in flight where the states allow it. `row.fed`
    says afterwards exactly which tokens the states hold.
    """
    try:
        pending = _advance(row, mx.array(row.unread))
        row.fed += row.unread
        drawn = pending.read()
        yield drawn
        if max_tokens == 1:
            return
        pending = _advance(row, pending.token)
        row.fed.append(drawn.token)
        for count in range(2, max_tokens + 1):
            following = None
            if count < max_tokens:
                following = _advance(row, pending.token)
                row.in_flight = pending
            drawn = pending.read()
            yield drawn
            if following is None:
                return
            row.check()
            row.fed.append(drawn.token)
            row.in_flight = None
            pending = following
            if count % CLEAN_EVERY == 0:
                mx.clear_cache()
                check_memory()
    finally:
        row.settle()


def _advance(row: Row, ids: mx.array) -> Pending:
    """One forward pass over ids [L] or a single id, and the draw from its last position.

    Reshaping belongs inside, too: one operation on another stream makes the two wait for each
    other at every step.
    """
    with lock, on_stream():
        row.check()
        hidden = row.decoder.hidden(ids.reshape(1, -1), row.state, near_end=row.follow)
        return row.choose(row.decoder.logits(hidden[:, -1:])[0, -1])
