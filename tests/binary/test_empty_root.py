"""The binary where there is nothing but the C library: no Python, no shell, no accounts, no network."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.binary.empty_root import HOME, PATIENCE, PROC, EmptyRoot, Said, beside
from tests.binary.shipped import Shipped, folders

QUESTION = "Name the capital of France."
EXACT = ("--temperature", "0", "--max-tokens", "8")
PLACE, FALLBACK = f"{HOME}/.cache/mlxone/runtime", "/tmp/mlxone-1000"


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Somebody who downloaded the file into an empty root, with a /proc there or without."""

    root: EmptyRoot
    program: str
    binds: tuple[str, ...]

    def run(self, *args: str, **how: Any) -> Said:
        return self.root.run(self.program, *args, **{"binds": self.binds, **how})

    def start(self, *args: str, **how: Any) -> subprocess.Popen[str]:
        return self.root.start(self.program, *args, **{"binds": self.binds, **how})


@pytest.fixture(scope="module", params=[(PROC,), ()], ids=["proc", "no proc"])
def newcomer(lived_in: EmptyRoot, full: Shipped, request: pytest.FixtureRequest) -> Newcomer:
    home = lived_in.at(HOME)
    home.rename(home.with_name(f"before {len(request.param)}"))
    home.mkdir()
    return Newcomer(lived_in, lived_in.give(full.file, "/opt/mlxone"), request.param)


def fine(said: Said) -> str:
    """What it said, having said nothing else."""
    assert (said.code, said.err) == (0, ""), said
    return said.out


# What a newcomer types -------------------------------------------------------------------------------


def test_the_first_start_unpacks_into_the_home_and_nowhere_else(newcomer: Newcomer, full: Shipped):
    before = set(newcomer.root.files())
    assert fine(newcomer.run("--version")) == full.version_line
    assert folders(newcomer.root.at(PLACE)) == [full.runtime_name]
    assert [file for file in set(newcomer.root.files()) - before if not file.startswith(PLACE)] == []


def test_it_knows_itself(newcomer: Newcomer):
    told = json.loads(fine(newcomer.run("--version", "--json")))
    assert told["kind"] == "full" and told["version"] in fine(newcomer.run("--version"))


def test_it_answers_from_the_starter_inside(newcomer: Newcomer):
    assert fine(newcomer.run("run", "--max-tokens", "8", "hello")).strip()
    assert "Paris" in fine(newcomer.run("run", *EXACT, QUESTION))


def test_it_answers_a_pipe(newcomer: Newcomer):
    assert "Paris" in fine(newcomer.run("run", *EXACT, input=QUESTION + "\n"))


def test_it_lists_the_starter_and_says_that_it_fits(newcomer: Newcomer):
    assert "SmolLM2" in fine(newcomer.run("ls"))
    assert "starter" in fine(newcomer.run("fit")) and "fits" in fine(newcomer.run("fit"))


def test_doctor_finds_nothing_wrong(newcomer: Newcomer):
    said = newcomer.run("doctor", "--offline", "--json")
    told = json.loads(said.out)
    assert said.code == 0, told


@pytest.mark.parametrize("locale", [{}, {"LANG": "C"}, {"LC_ALL": "POSIX"}, {"LANG": "de_DE.UTF-8"}], ids=str)
def test_no_locale_is_needed_for_any_letter(newcomer: Newcomer, locale: dict[str, str]):
    env = {"HOME": HOME, **locale}
    told = json.loads(fine(newcomer.run("run", "--json", *EXACT, "Say: Grüße, 日本 🙂", env=env)))
    assert told["text"]
    assert "é日🙂" in newcomer.run("show", "é日🙂", env=env).err


# A server --------------------------------------------------------------------------------------------


@contextmanager
def serving(newcomer: Newcomer) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with newcomer.start("serve", "--port", "0", "--log-json", "--log-level", "warn") as child:
        try:
            line = child.stdout.readline()
            assert line, child.stderr.read()
            yield child, json.loads(line)["url"]
        finally:
            child.kill()


def curl(child: subprocess.Popen[str], *args: str) -> str:
    """By curl of this machine, in the server's network; who fails says why."""
    return fine(beside(child.pid, "curl", "--silent", "--show-error", "--fail", "--max-time", "120", *args))


def test_it_serves(newcomer: Newcomer):
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 8, "temperature": 0}
    with serving(newcomer) as (child, url):
        assert json.loads(curl(child, f"{url}/health")) == {"status": "ok"}
        chat = (f"{url}/v1/chat/completions", "--header", "content-type: application/json", "--data")
        answer = json.loads(curl(child, *chat, json.dumps(asked)))
        said = answer["choices"][0]["message"]["content"]
        assert "Paris" in said
        stream = curl(child, "--no-buffer", *chat, json.dumps(asked | {"stream": True}))
        *events, last, end = stream.split("\n\n")
        assert (last, end) == ("data: [DONE]", "")
        deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
        assert "".join(delta.get("content") or "" for delta in deltas) == said
        only_ours(child.pid, newcomer.root, "_internal/mlx")
        child.send_signal(signal.SIGTERM)
        assert (child.wait(PATIENCE), child.stderr.read()) == (0, "")


def only_ours(pid: int, root: EmptyRoot, *needed: str) -> None:
    """That all code of a process is the C library's or lies in the runtime directory."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    code = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and " r-xp " in line}
    ours = {file for file in code if file.startswith(str(root.at(PLACE)))}
    assert all(any(word in file for file in ours) for word in needed), code
    assert {Path(file).parent for file in code - ours} <= {
        root.at(place).parent for place in root.libraries()
    }, code


# Where the file lies, and how it is called -----------------------------------------------------------


@pytest.mark.parametrize("binds", [(PROC,), ()], ids=["proc", "no proc"])
def test_a_space_and_other_letters_in_every_path(
    empty_root: EmptyRoot, full: Shipped, binds: tuple[str, ...]
):
    program = empty_root.give(full.file, "/opt/Zoës Sachen 日本/mlxone")
    home = "/home/Zoë Müller"
    empty_root.at(home).mkdir()
    how: dict[str, Any] = {"env": {"HOME": home, "LC_ALL": "C"}, "binds": binds}
    assert fine(empty_root.run(program, "--version", **how)) == full.version_line
    assert "Paris" in fine(empty_root.run(program, "run", *EXACT, QUESTION, **how))
    assert "SmolLM2" in fine(empty_root.run(program, "ls", **how))
    assert folders(empty_root.at(f"{home}/.cache/mlxone/runtime")) == [full.runtime_name]


@pytest.mark.parametrize("binds", [(PROC,), ()], ids=["proc", "no proc"])
def test_every_way_to_call_it_leads_to_one_runtime(
    empty_root: EmptyRoot, slim: Shipped, binds: tuple[str, ...]
):
    program = empty_root.give(slim.file, "/opt/tools/mlxone")
    for link, target in (("/bin/mlxone", "../opt/tools/mlxone"), ("/opt/other", "/bin/mlxone")):
        empty_root.at(link).parent.mkdir(exist_ok=True)
        empty_root.at(link).symlink_to(target)
    calls: list[dict[str, Any]] = [
        {"path": program},
        {"path": "/bin/mlxone"},
        {"path": "/opt/other"},
        {"path": "tools/mlxone", "cwd": "/opt"},
        {"path": "./mlxone", "cwd": "/opt/tools"},
        {"path": "../../bin/mlxone", "cwd": "/opt/tools"},
    ]
    for call in calls:
        for name in (call["path"], "mlxone", "another-name"):
            told = json.loads(fine(empty_root.run(name, "--version", "--json", binds=binds, **call)))
            assert told["kind"] == "slim"
            assert origin(empty_root, slim) == program
    assert folders(empty_root.at(PLACE)) == [slim.runtime_name]


def origin(root: EmptyRoot, shipped: Shipped) -> str:
    """Which file unpacked the runtime, by its own stamp."""
    first = (root.at(PLACE) / shipped.runtime_name / "stamp").read_text().splitlines()[0]
    return first.removeprefix("origin ")


# Homes that are none ---------------------------------------------------------------------------------


def in_the_fallback(root: EmptyRoot, shipped: Shipped) -> None:
    assert folders(root.at(f"{FALLBACK}/runtime")) == [shipped.runtime_name]
    assert root.at(FALLBACK).stat().st_mode & 0o777 == 0o700


def told_of_the_fallback(said: Said) -> None:
    [line] = said.err.splitlines()
    assert line.startswith("mlxone: ") and HOME in line and FALLBACK in line, said
    assert said.code == 0


def test_a_read_only_home_is_said_once_and_no_hindrance(empty_root: EmptyRoot, full: Shipped):
    program = empty_root.give(full.file, "/opt/mlxone")
    how: dict[str, Any] = {"read_only": [HOME]}
    first = empty_root.run(program, "--version", **how)
    told_of_the_fallback(first)
    assert first.out == full.version_line
    in_the_fallback(empty_root, full)
    assert fine(empty_root.run(program, "--version", **how)) == full.version_line
    assert "Paris" in empty_root.run(program, "run", *EXACT, QUESTION, **how).out
    for verb in ("ls", "fit"):
        said = empty_root.run(program, verb, **how)
        assert said.code == 0 and "Traceback" not in said.err, said
    assert list(empty_root.at(HOME).iterdir()) == []


def test_a_home_that_may_not_be_written(empty_root: EmptyRoot, slim: Shipped):
    program = empty_root.give(slim.file, "/opt/mlxone")
    empty_root.at(HOME).chmod(0o555)
    told_of_the_fallback(empty_root.run(program, "--version"))
    in_the_fallback(empty_root, slim)


@pytest.mark.parametrize("binds", [(PROC,), ()], ids=["proc", "no proc"])
def test_no_home_at_all(empty_root: EmptyRoot, full: Shipped, binds: tuple[str, ...]):
    """And nobody of that number in /etc/passwd, as there is none."""
    program = empty_root.give(full.file, "/opt/mlxone")
    before = set(empty_root.files())
    for args, expected in (
        (["--version"], "mlxone"),
        (["run", *EXACT, QUESTION], "Paris"),
        (["ls"], "SmolLM2"),
    ):
        assert expected in fine(empty_root.run(program, *args, env={}, binds=binds))
    in_the_fallback(empty_root, full)
    assert [made for made in set(empty_root.files()) - before if not made.startswith(FALLBACK)] == []


# Without the starter ---------------------------------------------------------------------------------


def test_slim_says_how_to_get_a_model(empty_root: EmptyRoot, slim: Shipped):
    program = empty_root.give(slim.file, "/opt/mlxone-slim")
    assert fine(empty_root.run(program, "--version")) == slim.version_line
    assert empty_root.run(program, "ls").code == 0
    said = empty_root.run(program, "run", "hello")
    assert said.code in (3, 8) and said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("mlxone: ") and "mlxone get" in line
