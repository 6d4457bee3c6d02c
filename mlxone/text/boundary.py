"""Where the `tokenizers` library is called: whatever it raises becomes an error of ours.

It is Rust, and a panic in it arrives as an exception that is no `Exception` and whose class has
no importable name.
"""

from __future__ import annotations

from types import TracebackType

from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel


class Guarded:
    """`with Guarded("what failed"):`, as often as one likes with one object."""

    def __init__(self, failure: str) -> None:
        self._failure = failure

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, DamagedModel):
            return
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())[:300]
            raise DamagedModel(f"{self._failure}: {reason}", hint=DOWNLOAD_AGAIN) from error
