"""Stop strings, matched on decoded text across every border between chunks.

The match that starts first in the text wins; of several that start there, the first to complete.
Text is held back only while a match that starts in it can still complete, so nothing of a stop
string is ever emitted and nothing else waits. Each character costs the same however long the
stop strings are (Knuth-Morris-Pratt). Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from mlxone.core.errors import UsageError


class StopStrings:
    def __init__(self, strings: Iterable[str]) -> None:
        wanted = [strings] if isinstance(strings, str) else list(strings)
        for stop in wanted:
            if not isinstance(stop, str) or not stop:
                raise UsageError(f"a stop string must be text of at least one character, not {stop!r}")
        self._searches = [_Search(stop) for stop in dict.fromkeys(wanted)]
        self._held = ""
        self._found: tuple[int, str] | None = None  # where in the held text, which
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """The text that is now safe to emit. Nothing any more once `hit` is set."""
        if self.hit is not None:
            return ""
        if not self._searches:
            return text
        known = len(self._held)
        self._held += text
        for end, char in enumerate(text, start=known + 1):
            if self._step(char, end):
                return self._stop()
        return self._release()

    def finish(self) -> str:
        """The held back text, when no more will come. It may still set `hit`."""
        if self.hit is not None:
            return ""
        if self._found is not None:
            return self._stop()
        text, self._held = self._held, ""
        return text

    def _step(self, char: str, end: int) -> bool:
        """Takes one character; true once no later text can change which match wins."""
        for search in self._searches:
            if search.step(char):
                start = end - len(search.stop)
                if self._found is None or start < self._found[0]:
                    self._found = (start, search.stop)
        return self._found is not None and self._earliest(end) >= self._found[0]

    def _earliest(self, end: int) -> int:
        """Where the earliest match that is under way begins."""
        return end - max(search.matched for search in self._searches)

    def _release(self) -> str:
        # A match found while an earlier one is under way always lies behind that one's beginning.
        cut = self._earliest(len(self._held))
        text, self._held = self._held[:cut], self._held[cut:]
        if self._found is not None:
            self._found = (self._found[0] - cut, self._found[1])
        return text

    def _stop(self) -> str:
        assert self._found is not None
        start, self.hit = self._found
        text, self._held = self._held[:start], ""
        return text


class _Search:
    """One stop string and how much of it the text so far ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._border = [0]  # for each prefix of `stop`: its longest proper prefix that also ends it
        for char in stop[1:]:
            length = self._border[-1]
            while length and stop[length] != char:
                length = self._border[length - 1]
            self._border.append(length + (stop[length] == char))

    def step(self, char: str) -> bool:
        """Takes one character; true if the stop string ends with it."""
        matched = self.matched
        while matched and self.stop[matched] != char:
            matched = self._border[matched - 1]
        matched += self.stop[matched] == char
        complete = matched == len(self.stop)
        # A later match of the same string can never be the first: it need not be followed.
        self.matched = 0 if complete else matched
        return complete
