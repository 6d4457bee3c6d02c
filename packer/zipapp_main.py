"""The zipapp's `__main__`: one line where the Python or the system is not the one it was built for.

Whatever Python a user has must be able to read this file, 2.7 too, to hear from it: so there are no
annotations here, no f-strings and nothing newer. All else is in zipapp_start.py.
"""

import os
import sys

TYPE_CHECKING = False  # as in `typing`, which old Pythons do not have
if TYPE_CHECKING:
    from typing import Any  # noqa: F401 - the type comments name it

BUILT_FOR = {}  # type: dict[str, Any]  # filled in by zipapp.py

EXIT_CODE = 12  # "MLX cannot run here": docs/exit-codes.md
SYSTEMS = {"linux": "Linux", "darwin": "macOS"}


def here():
    # type: () -> dict[str, Any]
    """The Python that runs this, and its system; `release` is glibc's version, or macOS's."""
    version = ".".join(map(str, sys.version_info[:2]))
    return {
        "implementation": _implementation(),
        "python": version + ("t" if "t" in getattr(sys, "abiflags", "") else ""),
        "system": "linux" if sys.platform.startswith("linux") else sys.platform,
        "machine": _machine(),
        "release": _release(),
    }


def misfit(wanted, found):
    # type: (dict[str, Any], dict[str, Any]) -> str
    """Why this file cannot run here, with the way out; nothing where it can."""
    python = _python(wanted)
    if (found["system"], found["machine"]) != (wanted["system"], wanted["machine"]):
        return (
            "this file is for " + _system(wanted) + " and this is " + _system(found)
            + ": download the file for this system"
        )  # fmt: skip
    if (found["implementation"], found["python"]) != (wanted["implementation"], wanted["python"]):
        return (
            "this file is for " + python + " and this is " + _python(found) + ": start it with python"
            + str(wanted["python"]) + ", or download `mlxone`, which needs no Python"
        )  # fmt: skip
    if list(found["release"]) < list(wanted["release"]):
        return _too_old(wanted, found)
    return ""


def _too_old(wanted, found):
    # type: (dict[str, Any], dict[str, Any]) -> str
    needed = ".".join(map(str, wanted["release"]))
    has = ".".join(map(str, found["release"]))
    if wanted["system"] == "darwin":
        return "mlxone needs macOS " + needed + " or later: this system has " + has
    has = has if any(found["release"]) else "another C library"
    return "mlxone needs glibc " + needed + " or later (Ubuntu 22.04, Debian 12): this system has " + has


def _implementation():
    # type: () -> str
    if hasattr(sys, "implementation"):
        return str(sys.implementation.name)
    return "pypy" if hasattr(sys, "pypy_version_info") else "cpython"


def _machine():
    # type: () -> str
    if not hasattr(os, "uname"):
        return "unknown"
    machine = os.uname()[4]
    return machine if sys.maxsize > 2**32 else machine + " in 32 bits"


def _release():
    # type: () -> list[int]
    try:
        if sys.platform == "darwin":
            import platform

            text = platform.mac_ver()[0]
        else:
            text = (os.confstr("CS_GNU_LIBC_VERSION") or "").split()[-1]
        return [int(part) for part in text.split(".")[:2]]
    except (AttributeError, IndexError, OSError, ValueError):  # no glibc
        return [0, 0]


def _python(of):
    # type: (dict[str, Any]) -> str
    name = {"cpython": "CPython", "pypy": "PyPy"}.get(of["implementation"], of["implementation"])
    return str(name) + " " + str(of["python"])


def _system(of):
    # type: (dict[str, Any]) -> str
    return SYSTEMS.get(of["system"], str(of["system"])) + " on " + str(of["machine"])


def keep_our_paths():
    # type: () -> None
    """Leaves the standard library and this file: what else is installed here, or named by PYTHONPATH, is
    not what mlxone was tested with. Modules of it that came with the interpreter's own start go as well."""
    archive, library = os.path.dirname(__file__), os.path.dirname(os.__file__)
    numbered = "python{}{}.zip".format(*sys.version_info)
    sys.path[:] = [
        entry
        for entry in sys.path
        if entry in (archive, library) or os.path.basename(entry) in ("lib-dynload", numbered)
    ]
    for name, module in list(sys.modules.items()):
        if {"site-packages", "dist-packages"} & set((getattr(module, "__file__", "") or "").split(os.sep)):
            del sys.modules[name]


def main():
    # type: () -> None
    wrong = misfit(BUILT_FOR, here())
    if wrong:
        if sys.stderr is not None:  # as it is where it was closed
            sys.stderr.write("mlxone: " + wrong + "\n")
        sys.exit(EXIT_CODE)
    keep_our_paths()  # before anything else is imported
    import zipapp_start  # type: ignore[import-not-found] # beside this one in the archive

    zipapp_start.start(BUILT_FOR["build_id"])


if __name__ == "__main__":
    main()
