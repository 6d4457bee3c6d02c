"""The places mlxone reads and writes: whether it may, and how much room there is.

What the system says of its rights is not all of it (a disk may be read-only, or full), so where something
must be written something is, and taken away again. `access` is `os.access` everywhere but in tests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mlxone.core.amounts import in_words
from mlxone.service.checkup.findings import Finding, Status, ok, warn

Access = Callable[[Path, int], bool]
Room = Callable[[Path], int | None]
PROBE = ".mlxone-doctor-"  # the names of what is made to see whether it can be
LITTLE_ROOM = 2 * 10**9  # a small model's download


def unusable(place: Path, access: Access = os.access) -> str:
    """Why nothing can be kept there, nor the folder be made; empty if it can."""
    nearest = next((above for above in (place, *place.parents) if os.path.lexists(above)), Path("/"))
    if not os.path.isdir(nearest):
        return f"{nearest} is not a folder"
    if not access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} cannot be written to"
    if nearest == place and not access(nearest, os.R_OK):
        return f"{nearest} cannot be read"
    return _refused(nearest, as_folder=nearest != place)


def _refused(place: Path, *, as_folder: bool) -> str:
    try:
        if as_folder:
            os.rmdir(tempfile.mkdtemp(prefix=PROBE, dir=place))
        else:
            tempfile.NamedTemporaryFile(prefix=PROBE, dir=place).close()
    except OSError as error:
        return f"{place} takes no {'folder' if as_folder else 'file'}: {error.strerror or error}"
    return ""


def readable(place: Path, access: Access = os.access) -> str:
    if not os.path.isdir(place):
        return "is not a folder" if os.path.lexists(place) else "is not there"
    return "" if access(place, os.R_OK | os.X_OK) else "cannot be read"


def room(place: Path) -> int | None:
    """Bytes free for us on the disk it is on, or would be; of what is no disk (/proc) it is not known."""
    for above in (place, *place.parents):
        try:
            disk = shutil.disk_usage(above)
        except OSError:
            continue
        return disk.free if disk.total else None
    return None


def folder(
    name: str, place: Path, fix: str, *, without: Status = "fail", access: Access = os.access
) -> Finding:
    """A folder that must be writable; `without` says how bad it is where it is not."""
    trouble = unusable(place, access)
    exists = os.path.isdir(place)
    details = {"path": str(place), "exists": exists}
    if trouble:
        return Finding(
            name, without, trouble if str(place) in trouble else f"{place}: {trouble}", fix, details
        )
    return ok(name, f"{place}{'' if exists else ' (made when it is needed)'}", details)


def model_folders(places: Sequence[Path], access: Access = os.access) -> Finding | None:
    """Those that the user named; none were named by most."""
    if not places:
        return None
    bad = [f"{place} {trouble}" for place in places if (trouble := readable(place, access))]
    listed = {"paths": [str(place) for place in places]}
    if bad:
        fix = "correct MLXONE_MODEL_DIR or model_dirs in the config file"
        return warn("model folders", "; ".join(bad), fix, listed)
    return ok("model folders", ", ".join(listed["paths"]), listed)


def disk(places: Iterable[Path], free: Room = room) -> Finding:
    """The disks that models and our own files go to."""
    rooms = {str(place): size for place in places if (size := free(place)) is not None}
    words = ", ".join(f"{in_words(size)} free for {place}" for place, size in rooms.items())
    if any(size < LITTLE_ROOM for size in rooms.values()):
        fix = "free some space (`mlxone gc` shows what could go), or set HF_HUB_CACHE to another disk"
        return warn("disk", words, fix, {"free_bytes": rooms})
    return ok("disk", words or "not known", {"free_bytes": rooms})


def registry(path: Path, count: int, notices: Sequence[str]) -> Finding:
    """What a look at all models said of the file that remembers them."""
    about = {"path": str(path), "models": count, "notices": list(notices)}
    own = [notice for notice in notices if str(path) in notice]
    if any("cannot be used" in notice for notice in own):
        return warn("registry", own[-1], f"check who may write {path}, or delete it", about)
    if own:
        return warn("registry", own[-1], "nothing: it was made anew", about)
    return ok("registry", f"{count} model{'' if count == 1 else 's'} in {path}", about)


def starter(bundled: Path, prepared: Path, used: Path | None, way: str, *, is_default: bool) -> Finding:
    """`used` is the folder it would be read from; `is_default`: by a command that names no model."""
    details = {"path": str(used) if used else None}
    if used == bundled:
        return ok("starter", "inside this program", details)
    if bundled.is_dir():
        return warn("starter", f"{bundled} is not whole", f"download mlxone again, or {way}", details)
    if prepared.is_dir() and used is None:
        return warn("starter", f"{prepared} is not whole", f"delete it, then {way}", details)
    if used is None and not is_default:
        return ok("starter", "not on this machine, and another model is set", details)
    if used is None:
        return warn("starter", "not on this machine: a command without a model has to fetch it", way, details)
    return ok("starter", str(used), details)
