"""What the launcher hands on to the program inside, and what it says of a system that cannot run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.binary.launcher import tiny as tinies
from tests.binary.launcher.tiny import (
    ECHO,
    Home,
    Said,
    Tiny,
    contents,
    ended,
    names,
    python,
    works,
)

LINUX = sys.platform == "linux"
linux_only = pytest.mark.skipif(not LINUX, reason="of Linux's loader")


def test_the_first_start_unpacks_and_the_second_does_not(home: Home, tiny: Tiny):
    works(home, tiny)
    before = (home.runtimes / tiny.name).stat()
    works(home, tiny)
    assert (home.runtimes / tiny.name).stat() == before


def test_what_is_unpacked_is_what_was_packed(home: Home, tiny: Tiny):
    works(home, tiny)
    found = contents(home.runtimes / tiny.name)
    manifest = json.loads((home.runtimes / tiny.name / "manifest.json").read_bytes())
    assert {name for name, (_, content) in found.items() if content is not True} == {
        "manifest.json",
        *manifest["files"],
    }
    assert found["_internal/lïnk"][1] == "deep/er"
    assert [oct(found[name][0]) for name in ("mlxone", "manifest.json", "_internal")] == [
        "0o100755", "0o100644", "0o40755",
    ]  # fmt: skip


def test_arguments_and_input_pass_untouched(home: Home, tiny: Tiny):
    words = ["", "two words", "*", "ü", "\\", "--version", "\n"]
    code = "import sys; print(sys.argv[1:]); print(sys.stdin.read())"
    assert home.run(tiny, *python(code), *words).out == f"{words}\n\n"
    child = home.start(tiny, *python(code))
    assert ended(child, "from a pipe").out == "[]\nfrom a pipe\n"


@pytest.mark.parametrize("times", ["first", "second"])
def test_exit_codes_signals_and_the_process_itself_pass_untouched(home: Home, tiny: Tiny, times: str):
    if times == "second":
        works(home, tiny)
    assert home.run(tiny, "sh", "-c", "exit 7").code == 7
    assert home.run(tiny, "sh", "-c", "kill -TERM $$").code == -signal.SIGTERM
    child = home.start(tiny, "sh", "-c", "echo $$; read line")
    assert child.stdout.readline() == f"{child.pid}\n"  # no process of the launcher's stays
    child.send_signal(signal.SIGINT)
    assert ended(child).code == -signal.SIGINT


def environment(home: Home, tiny: Tiny, **extra: str) -> dict[str, str]:
    said = home.run(
        tiny, *python("import json, os; print(json.dumps(dict(os.environ)))"), env=home.env | extra
    )
    assert said.code == 0
    return json.loads(said.out)


def test_the_environment_passes_but_for_what_the_program_needs(home: Home, tiny: Tiny):
    given = home.env | {"A": "b=c", "EMPTY": "", "UMLAUT": "ü", "LD_LIBRARY_PATH": "/a:/b"}
    found = environment(home, tiny, **given)
    assert found["MLXONE_EXECUTABLE"] == str(tiny.file)
    added = {
        "MLXONE_EXECUTABLE",
        "LD_LIBRARY_PATH",
        "LD_LIBRARY_PATH_ORIG",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "LC_CTYPE",
    }
    assert {k: v for k, v in found.items() if k not in added and not k.startswith("_PYI_")} == {
        k: v for k, v in given.items() if k not in added
    }


@linux_only
def test_the_loader_inside_is_told_where_its_libraries_are(home: Home, tiny: Tiny):
    inside = home.runtimes / tiny.name
    others = {
        "_PYI_ARCHIVE_FILE": "/other",
        "_PYI_APPLICATION_HOME_DIR": "/other",
        "LD_LIBRARY_PATH_ORIG": "/other",
    }
    found = environment(home, tiny, **others)
    told = {k: v for k, v in found.items() if k.startswith(("_PYI_", "LD_"))}
    assert told == {
        "LD_LIBRARY_PATH": f"{inside}/_internal",
        "_PYI_ARCHIVE_FILE": f"{inside}/mlxone",
        "_PYI_PARENT_PROCESS_LEVEL": "-1",
        "_PYI_LINUX_PROCESS_NAME": "mlxone",
    }
    found = environment(home, tiny, LD_LIBRARY_PATH="/a:/b")
    assert (found["LD_LIBRARY_PATH"], found["LD_LIBRARY_PATH_ORIG"]) == (f"{inside}/_internal:/a:/b", "/a:/b")


def test_the_program_is_called_by_its_path(home: Home, tmp_path: Path):
    tiny = tinies.make(tmp_path, program="#!/bin/sh\necho $0\n")
    assert home.run(tiny).out == f"{home.runtimes / tiny.name}/mlxone\n"
    said = home.run([sys.executable, "-c", f"import os; os.execv({str(tiny.file)!r}, ['other name'])"])
    assert said.out == f"{home.runtimes / tiny.name}/mlxone\n"


@pytest.mark.parametrize("times", ["first", "second"])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams_stay_closed_and_nothing_is_written_to_their_numbers(
    home: Home, tiny: Tiny, tmp_path: Path, closed: tuple[int, ...], times: str
):
    if times == "second":
        works(home, tiny)
    report = tmp_path / "report"
    code = f"""
import os
def is_open(fd):
    try: return bool(os.fstat(fd))
    except OSError: return False
found = [fd for fd in range(3) if is_open(fd)]
with open({str(report)!r}, "w") as file:
    file.write(repr(found))
"""
    shut = "; ".join(f"os.close({fd})" for fd in closed)
    words = [str(tiny.file), *python(code)]
    home.run([sys.executable, "-c", f"import os; {shut}; os.execv({words[0]!r}, {words!r})"])
    assert report.read_text() == repr([fd for fd in range(3) if fd not in closed])
    works(home, tiny)


@pytest.mark.parametrize("times", ["first", "second", "after a place that failed"])
def test_one_descriptor_more_reaches_the_program_and_that_is_its_runtime(home: Home, tiny: Tiny, times: str):
    if times == "second":
        works(home, tiny)
    elif times != "first":
        home.runtimes.mkdir(parents=True)
        home.runtimes.chmod(0o777)
    code = """
import os, sys
for fd in range(3, 256):
    try: found = os.fstat(fd)
    except OSError: continue
    print(os.path.samestat(found, os.stat(os.path.dirname(sys.argv[1]))))
"""
    place = home.fallback if times == "after a place that failed" else home.place
    assert home.run(tiny, *python(code), str(place / "runtime" / tiny.name / "mlxone")).out == "True\n"


def test_umask_and_ignored_signals_pass_untouched_and_settle_nothing(home: Home, tiny: Tiny):
    report = [
        "sh",
        "-c",
        "umask; grep Sig[BI].. /proc/self/status",
    ]  # Python would ignore some of its own accord
    shell = ["sh", "-c", 'umask 777; exec "$@"', "sh"]
    for ignored in (True, False):
        plain = home.run([*shell, *report], restore_signals=ignored)
        assert plain.out.startswith("0777\n")
        assert home.run([*shell, tiny.file], *report, restore_signals=ignored) == plain
        shutil.rmtree(home.runtimes / tiny.name)
    works(home, tiny)
    assert [oct(path.stat().st_mode & 0o777) for path in (home.runtimes, home.runtimes / tiny.name)] == [
        "0o700"
    ] * 2


def test_a_running_program_says_that_its_runtime_is_in_use(home: Home, tiny: Tiny):
    for _ in range(2):
        child = home.start(tiny, "sh", "-c", "echo; read line")
        child.stdout.readline()
        assert tinies.in_use(home.runtimes / tiny.name)
        ended(child)
        assert not tinies.in_use(home.runtimes / tiny.name)


# The system -------------------------------------------------------------------------------------------

LOADER = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}


@linux_only
@pytest.mark.parametrize("libc", [None, "2.31", "2.34", "2.35", "2.41", "unknown"])
def test_an_old_system_gets_one_line(home: Home, tmp_path: Path, libc: str | None):
    system = tmp_path / "system"
    tiny = tinies.make(tmp_path / "tiny", cc=f"""{tinies.COMPILER} '-DSYSTEM_ROOT="{system}"'""")
    if libc is not None:
        for file in (LOADER[os.uname().machine], "usr/lib/libc.so.6"):
            (system / file).parent.mkdir(parents=True, exist_ok=True)
            (system / file).write_bytes(
                f"\0GNU C Library (X) stable release version {libc}.\nBy many.\0".encode()
            )
    said = home.run(tiny, *ECHO, "hello")
    if libc in ("2.35", "2.41", "unknown"):
        assert said == Said(0, "hello\n", "")
        return
    has = "glibc 2.\\d\\d" if libc else r"no glibc \([^)]+ is missing\)"
    needs = r"needs glibc 2.35 or later \(as in Ubuntu 22.04 or Debian 12\)"
    assert (said.code, said.out) == (12, "")
    assert re.fullmatch(rf"mlxone: this program {needs}: this system has {has}\n", said.err), said.err
    assert names(home.runtimes) == []


def test_a_program_that_the_system_cannot_start(home: Home, tmp_path: Path):
    tiny = tinies.make(tmp_path, program="#!/nowhere/loader\n")
    for _ in range(2):
        said = home.run(tiny)
        assert said.code == 12
        assert re.fullmatch(
            r"mlxone: [^\n]+/mlxone cannot be started on this system: No such file[^\n]+\n", said.err
        )


def test_a_terminal_is_told_once(home: Home, tiny: Tiny):
    def said_on_a_terminal() -> str:
        ours, theirs = os.openpty()
        home.run(tiny, "true", stderr=theirs)
        os.close(theirs)
        try:
            return os.read(ours, 1000).decode()
        except OSError:  # Linux's word for "nothing came"
            return ""
        finally:
            os.close(ours)

    assert said_on_a_terminal() == f"mlxone: first start of this version: unpacking into {home.runtimes}\r\n"
    assert said_on_a_terminal() == ""


def test_it_depends_on_no_library(tiny: Tiny):
    if not LINUX:
        pytest.skip("static on Linux only")
    shown: Any = subprocess.run(["readelf", "-ld", tiny.file], capture_output=True, text=True, check=True)
    assert "NEEDED" not in shown.stdout and "interpreter" not in shown.stdout
