"""Every verb from the binary on an ordinary machine: with TLS and SQLite, without anything of its Python."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxone.cli.group import HIDDEN, VERBS
from tests.binary.empty_root import PATIENCE, Said, tool
from tests.binary.shipped import Owner, Shipped, ended
from tests.cli.test_chat import Person
from tests.hub.fake_hub import FakeHub, Repo, serving
from tests.service.rig import write_folder

REPO = "org/tiny-1b"
C_LIBRARY = ("ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so")


@pytest.mark.parametrize("verb", [*VERBS, *HIDDEN])
def test_every_verb_says_what_it_does(owner: Owner, slim: Shipped, verb: str, shared: Path):
    said = owner.run(slim.file, verb, "--help", MLXONE_HOME=str(shared))
    assert (said.code, said.err) == (0, "")
    assert f"mlxone {verb}" in said.out.splitlines()[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A place that is unpacked into once."""
    place = tmp_path_factory.mktemp("place")
    yield place
    shutil.rmtree(place)


# TLS and SQLite --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For 127.0.0.1, by an authority that nobody knows: itself."""
    folder = tmp_path_factory.mktemp("certificate")
    wish = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    places = ("-keyout", str(folder / "key"), "-out", str(folder / "both"))
    more = ("-addext", "subjectAltName=IP:127.0.0.1", *places)
    subprocess.run([tool("openssl"), *wish.split(), *more], check=True, capture_output=True)
    with (folder / "both").open("a") as both:
        both.write((folder / "key").read_text())
    return folder / "both"


@pytest.fixture
def hub(certificate: Path, tmp_path: Path) -> Iterator[FakeHub]:
    """Which has one tiny model."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    folder = write_folder(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with serving(FakeHub({REPO: Repo(files)}, tls=tls)) as running:
        yield running


def test_a_model_comes_over_tls_and_is_listed_and_used(
    owner: Owner, slim: Shipped, hub: FakeHub, certificate: Path, shared: Path
):
    env = {"MLXONE_HOME": str(shared), "HF_ENDPOINT": hub.url, "SSL_CERT_FILE": str(certificate)}
    assert owner.run(slim.file, "get", REPO, **env).code == 0
    assert hub.url.startswith("https:") and "model.safetensors" in hub.gets()
    [row] = json.loads(owner.run(slim.file, "ls", "--json", **env).out)
    assert row["repo"] == REPO
    assert (shared / "registry.sqlite").is_file()
    said = owner.run(slim.file, "run", "--max-tokens", "4", "--model", REPO, "hello", **env)
    assert said.code == 0 and "Traceback" not in said.err
    assert owner.run(slim.file, "show", REPO, **env).code == 0


def test_a_stranger_is_not_believed(owner: Owner, slim: Shipped, hub: FakeHub, shared: Path):
    """By the authorities it brings along."""
    said = owner.run(slim.file, "get", REPO, MLXONE_HOME=str(shared), HF_ENDPOINT=hub.url)
    assert said.code == 8 and "certificate" in said.err.lower() and hub.log == [], said


# Apart from the machine it runs on -------------------------------------------------------------------


@pytest.fixture
def traps(tmp_path: Path) -> dict[str, str]:
    """What would lead a Python astray: modules and libraries that end whoever loads them."""
    for name in ("click", "mlxone", "sitecustomize", "usercustomize", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('trapped')")
    for name in ("libmlx.so", "libstdc++.so.6", "libz.so.1", "libopenblas.so"):
        (tmp_path / name).write_text("no library")
    names = ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONSTARTUP", "VIRTUAL_ENV")
    return dict.fromkeys(names, str(tmp_path)) | {"PYTHONINSPECT": "1", "PYTHONVERBOSE": "1"}


def test_the_machines_own_python_does_not_lead_it_astray(
    owner: Owner, full: Shipped, traps: dict[str, str], shared: Path
):
    said = owner.run(full.file, "--version", **traps, MLXONE_HOME=str(shared))
    assert said == Said(0, full.version_line, "")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_of_the_machine_only_the_c_library_is_used(
    owner: Owner, full: Shipped, traps: dict[str, str], shared: Path
):
    env = traps | {"MLXONE_HOME": str(shared)}
    with owner.start(full.file, "serve", "--port", "0", "--log-json", "--log-level", "warn", **env) as child:
        try:
            assert json.loads(child.stdout.readline())["event"] == "ready"
            code = loaded_code(child.pid)
            child.send_signal(signal.SIGTERM)
            assert ended(child).code == 0
        finally:
            child.kill()
    runtime = str(shared / "runtime" / full.runtime_name)
    strangers = {file for file in code if not file.startswith(runtime)}
    assert any("libmlx" in file for file in code - strangers) and any("openblas" in file for file in code)
    assert [file for file in strangers if not Path(file).name.startswith(C_LIBRARY)] == []


def loaded_code(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "/" in line and " r-xp " in line}


class Chatter(Person):
    """At a terminal with the binary."""

    def _become_mlxone(self) -> None:
        os.execve(self._args[0], self._args, self._env)


@pytest.mark.parametrize("given", [{}, {"LD_LIBRARY_PATH": "/opt/of the user"}], ids=["none", "one"])
def test_programs_that_it_starts_get_the_library_path_it_was_given(
    owner: Owner, full: Shipped, given: dict[str, str], shared: Path, tmp_path: Path
):
    """As seen by an editor, in a chat."""
    heard, editor = tmp_path / "heard", tmp_path / "editor"
    editor.write_text(f"#!/bin/sh\n/usr/bin/env >'{heard}'\necho Name the capital of France. >\"$1\"\n")
    editor.chmod(0o755)
    env = owner.env | given | {"MLXONE_HOME": str(shared), "EDITOR": str(editor)}
    person = Chatter(tmp_path, (str(full.file), "run", "--temperature", "0"), {}, env)
    try:
        person.says("/edit")
        person.reads("Paris")
        assert person.leaves() == 0
    finally:
        person.gone()
    told = dict(line.partition("=")[::2] for line in heard.read_text().splitlines())
    assert told.get("LD_LIBRARY_PATH") == given.get("LD_LIBRARY_PATH")
    assert {name for name in told if name.startswith(("_PYI", "LD_", "_MEI"))} <= {"LD_LIBRARY_PATH"}


def test_a_signal_reaches_the_program_itself(owner: Owner, full: Shipped, shared: Path):
    """No process stays between: who is told to end is who serves, and its end is the end."""
    child = owner.start(full.file, "serve", "--port", "0", "--log-json", MLXONE_HOME=str(shared))
    ready = json.loads(child.stdout.readline())
    assert ready["pid"] == child.pid
    child.send_signal(signal.SIGINT)
    assert child.wait(PATIENCE) == 130
    child.communicate()
