"""These proofs on a system that is not Linux, which is played here: what needs Linux is left out with its
reason, in CI as well, and all else can be collected and would run."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.binary.shipped import ROOT

# What is imported first is of this system: only the proofs shall take themselves to be on another one.
PLAYED = """
import os, platform, sys
import pytest

class Mac:
    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self):
        import mlxone.backend.arrays, tests.e2e.serving, tests.hub.fake_hub, tests.cli.test_chat
        system = os.uname_result(("Darwin", "mac", "24.0.0", "Darwin", "arm64"))
        sys.platform, platform.machine, os.uname = "darwin", lambda: "arm64", lambda: system

sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Mac()]))
"""
LINUX_ALONE = (
    ("tests/binary/test_empty_root.py", ""),
    ("tests/binary/test_starts.py", "disk or full_home"),
    ("tests/binary/test_verbs.py", "c_library"),
    ("tests/binary/test_payload.py", "library_looks"),
)


def played(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PLAYED, *args],
        cwd=ROOT, env=os.environ | {"CI": "true"}, capture_output=True, text=True,
    )  # fmt: skip


def test_all_can_be_collected():
    done = played("--collect-only", "-q", "tests/binary")
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr
    assert int(re.findall(r"^(\d+) tests? collected", done.stdout, re.M)[0]) > 100


@pytest.mark.parametrize(("file", "which"), LINUX_ALONE, ids=[file for file, _ in LINUX_ALONE])
def test_what_needs_linux_is_left_out_and_says_so(file: str, which: str):
    done = played("-q", "-rs", file, "-k", which)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr
    [summary] = re.findall(r"^(\d+) skipped.* in ", done.stdout, re.M)  # and none that passed or failed
    assert int(summary) > 0
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", done.stdout, re.M)
    assert reasons and all(re.search("only Linux|/proc", reason) for reason in reasons)
