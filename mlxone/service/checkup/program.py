"""The program itself: which build, whether the files it unpacked are whole, what it stands on."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlxone.core.about import EXECUTABLE, About
from mlxone.service.checkup.findings import Finding, fail, ok, warn

# By their names on the index; a test compares them with what the project declares.
PACKAGES = (
    "click",
    "h11",
    "huggingface-hub",
    "jinja2",
    "markdown-it-py",
    "mlx",
    "msgspec",
    "pyyaml",
    "rich",
    "tokenizers",
)
MANIFEST, STAMP = "manifest.json", "stamp"  # beside the program that was unpacked; the launcher's words
BLOCK = 1 << 20


def program(about: About) -> Finding:
    commit = f" ({about.commit[:12]}{', changed' if about.dirty else ''})" if about.commit else ""
    kinds = {
        "source": "from a source tree",
        "wheel": "installed as a package",
        "full": "one file, with the starter",
        "slim": "one file, without the starter",
        "zipapp": "a zipapp",
    }
    message = f"mlxone {about.version}{commit}, {kinds[about.kind]}: {about.executable}"
    return ok("program", f"{message}; Python {about.python}, {about.platform}", asdict(about))


def packages(versions: Mapping[str, str | None], *, is_packed: bool) -> Finding:
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        fix = "download mlxone again" if is_packed else f"pip install {' '.join(missing)}"
        return fail("packages", f"not installed: {', '.join(missing)}", fix, versions)
    return ok("packages", ", ".join(f"{name} {version}" for name, version in versions.items()), versions)


def runtime(folder: Path) -> Finding:
    """Reads every file that was unpacked. What is damaged is unpacked anew at the next start."""
    try:
        text = (folder / MANIFEST).read_bytes()
        manifest = json.loads(text)
        files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        expected = f"{manifest['version']}-{hashlib.sha256(text).hexdigest()[:16]}"
        bad = [f"{MANIFEST} is not this folder's"] if folder.name != expected else list(damage(folder, files))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        files, bad = {}, [f"{MANIFEST} cannot be read: {error}"]
    if bad:
        return _damaged(folder, bad)
    details = {"folder": str(folder), "files": len(files)}
    return ok("files", f"all {len(files)} files in {folder} are whole", details)


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line for each file that is not as the manifest says."""
    for name, said in files.items():
        try:
            wrong = _wrong(folder / name, said)
        except FileNotFoundError:
            wrong = "is gone"
        except OSError as error:
            wrong = f"cannot be read: {error.strerror or error}"
        if wrong:
            yield f"{name} {wrong}"


def _wrong(path: Path, said: Mapping[str, Any]) -> str:
    found = path.lstat()
    if "link" in said:
        leads = os.readlink(path) if stat.S_ISLNK(found.st_mode) else None
        return "" if leads == said["link"] else "is not the link it was"
    if not stat.S_ISREG(found.st_mode):
        return "is no file any more"
    if found.st_size != said["size"]:
        return f"has {found.st_size:,} bytes, not {said['size']:,}"
    return "" if _hash(path) == said["sha256"] else "has changed"


def _hash(path: Path) -> str:
    seen = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            seen.update(block)
    return seen.hexdigest()


def _damaged(folder: Path, bad: list[str]) -> Finding:
    details = {"folder": str(folder), "damaged": bad}
    what = "a file" if len(bad) == 1 else f"{len(bad)} files"
    first = "" if len(bad) == 1 else "the first: "
    message = f"{what} of the program in {folder} damaged; {first}{bad[0]}"
    try:
        (folder / STAMP).unlink(missing_ok=True)  # without it the launcher takes nothing here for whole
    except OSError as error:
        why = f"its stamp cannot be deleted ({error.strerror or error})"
        return fail("files", message, f"delete that folder: {why}", details)
    fix = "start mlxone again: it unpacks itself anew (the stamp of these files was deleted)"
    return fail("files", message, fix, details)


def environment(environ: Mapping[str, str]) -> Finding:
    """The variables that change what mlxone does; what may be a secret is not shown."""
    found = {name: _shown(name, value) for name, value in sorted(environ.items()) if _matters(name) and value}
    names = ", ".join(found) or "no variable"
    trouble = _home_trouble(environ.get("MLXONE_HOME", ""))
    if trouble:
        fix = "write out the folder: only a leading ~/ is expanded"
        return warn("environment", f"MLXONE_HOME {trouble}", fix, found)
    return ok("environment", f"{names} set", found)


def _home_trouble(home: str) -> str:
    if "$" in home:
        return "holds a $, which stands for itself"
    if not home or home == "~" or home.startswith(("/", "~/")):
        return ""
    if home.startswith("~"):
        return f"is {home!r}: a ~ with a name stands for itself"
    return f"is {home!r}: another folder in each working directory"


def _matters(name: str) -> bool:
    if name == EXECUTABLE:  # nobody sets that one by hand
        return False
    return name.startswith(("MLXONE_", "HF_", "HUGGINGFACE_", "OPENBLAS_")) or name.upper() in (
        *("NO_COLOR", "FORCE_COLOR", "TRANSFORMERS_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"),
    )


def _shown(name: str, value: str) -> str:
    secret = any(word in name.upper() for word in ("KEY", "TOKEN", "SECRET", "PASSWORD")) or "@" in value
    return "(set)" if secret else value
