"""Compiles and links the launcher (packer/launcher/*.c) around a payload.

The only thing it needs from elsewhere is zstd's decoder: its source is fetched once, by version and
hash, and compiled once for each compiler and machine; both stay in `work`. Linux gets a static
executable, which starts where there is no C library at all and can say what is missing. Nothing of
this machine gets into the result, so the same payload and compiler give the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from packer.words import BuildError

SOURCES = Path(__file__).parent / "launcher"
REQUIREMENTS = Path(__file__).parent / "launcher-requirements.txt"
PAYLOAD = "payload.tar.zst"  # as payload.S calls it

WARNINGS = ("-Wall", "-Wextra", "-Werror")
SPLIT = ("-O2", "-ffunction-sections", "-fdata-sections")  # so that the linker can leave out what is not used
ZSTD = ("-DZSTD_DISABLE_ASM=1", "-DZSTD_STRIP_ERROR_STRINGS=1", "-DZSTD_LEGACY_SUPPORT=0")


def build(
    archive: Path, output: Path, *, runtime_name: str, glibc: str | None, work: Path, cc: str = "cc"
) -> None:
    """Writes `output`, the executable. `glibc` is the version the payload needs, as "2.35"; None on macOS."""
    compiler = shlex.split(cc)
    work.mkdir(parents=True, exist_ok=True)
    target = _machine(compiler)
    source = _zstd_source(work)
    decoder = _zstd_object(source, work, compiler, target)
    names = [f'-DRUNTIME_NAME="{runtime_name}"', *([f'-DGLIBC_NEEDED="{glibc}"'] if glibc else [])]
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        # The assembler looks for the payload where it runs: no path, with all that paths may contain.
        _place(archive, Path(scratch, PAYLOAD))
        made = Path(scratch, "mlxone")
        _run(
            [
                *compiler, "-std=c11", "-D_GNU_SOURCE", *WARNINGS, *SPLIT, *names,
                "-isystem", str(source.parent),
                *(str(path) for path in sorted(SOURCES.glob("*.[cS]"))), str(decoder), *_linking(target),
                "-o", str(made),
            ],
            cwd=Path(scratch),
        )  # fmt: skip
        _publish(made, output)


def _linking(target: str) -> list[str]:
    if "darwin" in target or "macos" in target:
        return ["-Wl,-dead_strip"]
    # At an address above all else, the payload comes last in the file, too: see payload.S.
    return [
        "-static",
        "-s",
        "-Wl,--gc-sections",
        "-Wl,--build-id=none",
        "-Wl,--section-start=.payload=0x10000000",
    ]


def _zstd_object(source: Path, work: Path, compiler: list[str], target: str) -> Path:
    """Half a minute of compiling, so the result is kept under a name that says what it was made with."""
    flags = [*SPLIT, *ZSTD]
    made_with = [target, _version(compiler), *flags, source.read_bytes().hex()]
    made = work / f"zstd-{hashlib.sha256(repr(made_with).encode()).hexdigest()[:16]}.o"
    if not made.exists():
        half = work / f"{made.name}.{os.getpid()}"
        _run([*compiler, *flags, "-c", str(source), "-o", str(half)], cwd=work)
        os.replace(half, made)
    return made


def _zstd_source(work: Path) -> Path:
    """The path of zstd.c, with zstd.h beside it."""
    folder = work / f"zstd-{hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            files = Path(scratch, "zstd")
            files.mkdir()
            with tarfile.open(_downloaded(Path(scratch))) as sdist:
                for member in sdist:
                    path = Path(member.name)
                    if member.isreg() and path.parent.name == "zstd" and path.suffix in (".c", ".h"):
                        content = sdist.extractfile(member)
                        assert content is not None  # it is a regular file
                        files.joinpath(path.name).write_bytes(content.read())
            os.replace(files, folder)
    return folder / "zstd.c"


def _downloaded(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-input", "download"]
    how = ["--no-deps", "--no-binary", ":all:", "--require-hashes"]
    _run([*pip, *how, "-r", str(REQUIREMENTS), "-d", str(folder)], cwd=folder, hint="is there a network?")
    return next(folder.glob("*.tar.gz"))


def _machine(compiler: list[str]) -> str:
    return _run([*compiler, "-dumpmachine"], cwd=None).strip()


def _version(compiler: list[str]) -> str:
    return _run([*compiler, "--version"], cwd=None)


def _place(archive: Path, name: Path) -> None:
    try:
        os.link(archive, name)
    except OSError:  # another disk
        shutil.copyfile(archive, name)


def _publish(made: Path, output: Path) -> None:
    """In one step: the file that is there may be running."""
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(f".{output.name}.new")
    shutil.copyfile(made, new)
    new.chmod(0o755)
    os.replace(new, output)


def _run(command: list[str], cwd: Path | None, hint: str = "") -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BuildError(
            f"{command[0]} is not installed", "a C compiler is needed, as in gcc or Xcode's tools"
        ) from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()]
        reason = (errors or lines or [f"exit code {done.returncode}"])[0]
        raise BuildError(f"{' '.join(command[:3])} …: {reason}", hint)
    return done.stdout
