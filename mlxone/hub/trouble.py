"""What can go wrong between us and the Hub, each as one line with a way out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlxone.core.errors import HubError, MlxoneError, ModelNotFound, StorageError, UsageError
from mlxone.hub import client

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK_HINTS = {
    **dict.fromkeys(_DISK_FULL, "free some space, or use a folder on another disk (HF_HUB_CACHE or --to)"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check who may write there"),
    errno.ENOENT: "something else deletes files there; try again",
    errno.EROFS: "use a folder that can be written to (HF_HUB_CACHE or --to)",
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "move away what is there in its place"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (`ulimit -n`)"),
}
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def explained(repo: str, revision: str | None, file: str = "a file") -> Iterator[None]:
    """Around every call of the Hub client: its exceptions come out as ours."""
    try:
        from huggingface_hub import errors
    except (ValueError, ImportError) as e:  # it reads HF_ENDPOINT and its like when it is imported
        raise UsageError(
            f"the Hub's client cannot start: {_first_line(e)}", hint="check the HF_* variables"
        ) from e

    # The base of all that the client's HTTP library raises; the name is stable, the library is not.
    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except MlxoneError:
        raise
    except errors.HFValidationError as e:
        raise UsageError(f"{repo!r} is not a repo id", hint="it looks like ORG/REPO") from e
    except (ValueError, ImportError) as e:  # a proxy, token or address that cannot be used
        raise HubError(
            f"the Hub cannot be asked: {_first_line(e)}", hint=f"{client.what_to_check()}, or the token"
        ) from e
    except (OSError, http_error, errors.XetDownloadError, errors.EntryNotFoundError) as e:
        raise _explain(_cause(e), repo, revision, file) from e
    except Exception as e:
        if type(e).__name__ != "InvalidURL":  # the one of that library that has no base
            raise
        raise HubError(f"the Hub cannot be asked: {_first_line(e)}", hint=client.what_to_check()) from e


def _cause(error: BaseException) -> BaseException:
    """The client wraps some failures in "not in the cache either": the first one is the news."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _explain(error: BaseException, repo: str, revision: str | None, file: str) -> MlxoneError:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{repo} is gated", hint=f"accept its terms on its page on the Hub, then {_LOGIN}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(f"{repo} is not on the Hub, or is private", hint=f"check the name, or {_LOGIN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFound(f"{repo} has no revision {revision!r}")
    if isinstance(error, errors.EntryNotFoundError):
        return HubError(f"{file} of {repo} is gone from the Hub", hint="it may have just changed: try again")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubError(f"HF_HUB_OFFLINE is set, so {repo} cannot be fetched", hint="unset it")
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error.response.status_code, repo)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK_FULL):
        what = f"{error.filename or 'the download'}: {error.strerror}"
        return StorageError(what, hint=_DISK_HINTS.get(error.errno or 0, "check the disk, then try again"))
    hub = client.shown_endpoint()
    authorities = os.environ.get("SSL_CERT_FILE")
    if authorities and not os.path.isfile(authorities):
        return HubError(
            f"{hub} cannot be reached: SSL_CERT_FILE names {authorities}, which is no file",
            hint="correct or unset SSL_CERT_FILE",
        )
    return HubError(f"{hub} cannot be reached: {_first_line(error)}", hint=client.what_to_check())


def _by_status(status: int, repo: str) -> MlxoneError:
    if status == 401:
        return HubError("the Hub does not accept the token that is set", hint=_LOGIN)
    if status == 403:
        return HubError(f"the token that is set may not read {repo}", hint=_LOGIN)
    if status == 404:
        return ModelNotFound(f"{repo} is not on the Hub")
    if status == 429:
        return HubError("the Hub got too many requests from here", hint=f"wait some minutes, or {_LOGIN}")
    if status >= 500:
        return HubError(f"the Hub has trouble of its own (status {status})", hint="try again later")
    return HubError(f"the Hub refused to hand out {repo} (status {status})")


def _first_line(error: BaseException) -> str:
    lines = [client.without_user(line.strip()) for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
