"""Where things live. The environment is read at each call, so a test or a command can move them.

Somebody without a home (HOME unset and not in the password database: a container's arbitrary user)
gets a private folder among the temporary files, the same one as the binary's launcher uses.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from mlxone.core import about
from mlxone.core.errors import StorageError

# The files of the starter that came with the program: beside the package, in the binary and the zipapp.
BUNDLED = about.PACKAGE.parent / about.STARTER


def home() -> Path:
    """Our own state: the starter, the registry, the chat history, what the binary unpacked.

    Of MLXONE_HOME only a leading `~` is expanded: the launcher, which reads it too, can do no more.
    """
    named = os.environ.get("MLXONE_HOME")
    if named:
        return _below_home(named) or Path(named)
    known = known_home()
    return known / ".cache" / "mlxone" if known else refuge()


def config_file() -> Path:
    return (_folder("XDG_CONFIG_HOME") or user_folder() / ".config") / "mlxone" / "config.toml"


def starter_folder() -> Path:
    """Where a starter is prepared; the one that came with the program is in `bundled_starter`."""
    return home() / "starter"


def bundled_starter() -> Path:
    """It is there only in a build that was packed with one."""
    return BUNDLED


def hf_cache() -> Path:
    """The Hugging Face cache, by the Hub client's own rules."""
    named = _folder("HF_HUB_CACHE") or _folder("HUGGINGFACE_HUB_CACHE")
    base = _folder("XDG_CACHE_HOME") or user_folder() / ".cache"
    return named or (_folder("HF_HOME") or base / "huggingface") / "hub"


def user_folder() -> Path:
    """What `~` means."""
    return known_home() or refuge()


def known_home() -> Path | None:
    """The user's own folder, if the system knows one. An empty HOME is none."""
    named = os.environ.get("HOME")
    if named:
        return Path(named)
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def refuge() -> Path:
    """A folder for who has no home. Others may write beside it, so it must be ours and ours alone."""
    place = refuge_path()
    try:
        place.mkdir(mode=0o700)
    except FileExistsError:
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise StorageError(
                f"{place} is not a private folder of this user", hint="set HOME, or MLXONE_HOME"
            ) from None
    except OSError:
        pass  # whoever wants to write there will say so
    return place


def refuge_path() -> Path:
    """Where that is, made or not."""
    return Path(os.environ.get("TMPDIR") or "/tmp", f"mlxone-{os.geteuid()}")


def _folder(variable: str) -> Path | None:
    value = os.path.expandvars(os.environ.get(variable, ""))
    return (_below_home(value) or Path(os.path.expanduser(value))) if value else None


def _below_home(text: str) -> Path | None:
    """Not the library's `expanduser`: without a home that makes a folder named `~`."""
    return user_folder() / text[2:].lstrip("/") if text == "~" or text.startswith("~/") else None
