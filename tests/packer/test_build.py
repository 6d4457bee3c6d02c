from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

import build
from packer import environment, sums
from packer.words import BuildError, Places

ROOT = Path(build.__file__).parent


def started(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=os.environ | variables
    )


# The command ------------------------------------------------------------------------------------------


def test_help_explains_every_target_and_step():
    told = started("--help").stdout
    steps = ["environment", "starter", "collect", "licences", "trees", "pack", "zipapp", "sums"]
    assert re.findall(r"^  (\w+)  +\S", told.split("steps:")[1], re.M) == steps
    assert all(target in told for target in build.TARGETS)


def test_a_missing_compiler_is_said_before_anything_is_done():
    done = started("slim", "--cc", "no-such-compiler")
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"build\.py: there is no C compiler no-such-compiler \(.*\)\n", done.stderr)


def test_an_old_python_is_refused():
    with pytest.raises(BuildError, match=r"Python 3\.10 is too old"):
        build.check((3, 10), "cc")


@pytest.mark.parametrize("wrong", [["--level", "0"], ["--level", "23"], ["everything"]])
def test_a_wrong_argument_is_a_matter_of_usage(wrong):
    assert started(*wrong).returncode == 2


def test_a_compiler_may_come_with_flags():
    build.check((3, 11), f"{sys.executable} -I")


def test_the_build_starts_with_the_standard_library_alone():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import build"
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT)], check=True)


def test_without_git_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    one = build.Build(Places(tmp_path), Namespace())
    assert one.facts == {"commit": None, "dirty": False} and one.commit_time == 315532800


def test_a_program_that_was_built_and_fails_is_named(tmp_path):
    one = build.Build(Places(tmp_path), Namespace())
    bad = tmp_path / "mlxone"
    bad.write_text("#!/bin/sh\nif [ $1 = device ]; then echo no MLX >&2; exit 12; fi\n")
    bad.chmod(0o755)
    with pytest.raises(BuildError, match=r"mlxone was built, but device fails: no MLX$"):
        one.try_out([str(bad)])
    bad.write_text('#!/bin/sh\nmkdir -p "$MLXONE_HOME"\n')
    one.try_out([str(bad)])
    assert not (tmp_path / "build" / "tried").exists()


# Its environment ------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "mlxone").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "mlxone/__init__.py"):
        (tmp_path / name).write_text(name)
    return tmp_path


class Commands:
    """Stands for venv and pip: remembers what was asked, makes what a venv makes."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.failing: dict[str, str] = {}

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        words = " ".join(command)
        self.asked.append(words)
        if "-m venv" in words:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        for part, said in self.failing.items():
            if part in words:
                return subprocess.CompletedProcess(command, 1, "", said)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def commands(monkeypatch) -> Commands:
    fake = Commands()
    monkeypatch.setattr(environment, "_quiet", fake)
    return fake


def test_an_environment_is_made_once(project, commands):
    python = environment.prepare(project, project / "env")
    assert python == project / "env" / "bin" / "python" and len(commands.asked) == 4
    commands.asked.clear()
    assert environment.prepare(project, project / "env") == python and commands.asked == []


def test_changed_sources_are_installed_anew_and_nothing_else(project, commands):
    environment.prepare(project, project / "env")
    commands.asked.clear()
    (project / "mlxone" / "new.py").write_text("")
    environment.prepare(project, project / "env")
    assert len(commands.asked) == 1 and "--no-deps" in commands.asked[0]


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_versions_make_a_new_environment(project, commands, name):
    environment.prepare(project, project / "env")
    (project / "env" / "left-over").touch()
    commands.asked.clear()
    (project / name).write_text("other")
    environment.prepare(project, project / "env")
    assert "-m venv" in commands.asked[0] and not (project / "env" / "left-over").exists()


def test_a_failed_installation_is_one_line_and_is_tried_again(project, commands):
    commands.failing = {
        "pyinstaller": "WARNING: retrying\nERROR: No matching distribution for pyinstaller\nbye\n"
    }
    with pytest.raises(BuildError, match=r"No matching distribution for pyinstaller \(is there") as caught:
        environment.prepare(project, project / "env")
    assert "\n" not in str(caught.value)
    commands.failing = {}
    commands.asked.clear()
    environment.prepare(project, project / "env")
    assert "-m venv" in commands.asked[0]


def test_a_venv_without_pip_gets_one_from_this_python(project, commands):
    commands.failing = {f"-m venv {project}": "ensurepip is not available"}
    environment.prepare(project, project / "env")
    assert "--without-pip" in commands.asked[1] and "--python" in commands.asked[2]


def test_a_python_without_pip_is_named(project, commands):
    commands.failing = {f"-m venv {project}": "no ensurepip", "--python": "No module named pip"}
    with pytest.raises(BuildError, match="has no working pip: No module named pip"):
        environment.prepare(project, project / "env")


def test_later_steps_see_nothing_of_the_callers_python(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("PYINSTALLER_CONFIG_DIR", "/mine")
    monkeypatch.setenv("MLXONE_HOME", "/models")
    variables = environment.clean_variables(1_700_000_000)
    assert "/mine" not in variables.values() and variables["MLXONE_HOME"] == "/models"
    assert (variables["PYTHONHASHSEED"], variables["SOURCE_DATE_EPOCH"]) == ("0", "1700000000")


# Its starter ------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(project: Path, monkeypatch) -> Path:
    """A project whose `make_starter.py` writes one file and counts how often it was asked."""
    for name in ("tools/make_starter.py", "tools/starter-requirements.txt", "mlxone/models/gguf.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")

    def made(command: list[str]) -> subprocess.CompletedProcess[str]:
        folder = Path(command[-1])
        folder.mkdir(parents=True)
        (folder / "weights").write_text("made")
        with (project / "asked").open("a") as asked:
            asked.write("x")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environment, "_quiet", made)
    return project


def times_made(project: Path) -> int:
    environment.starter(project, project / "build" / "starter")
    assert (project / "build" / "starter" / "weights").read_text() == "made"
    return len((project / "asked").read_text())


def test_the_starter_is_made_once(recipe):
    assert [times_made(recipe), times_made(recipe)] == [1, 1]


@pytest.mark.parametrize("name", ["weights", "left-over"])
def test_a_starter_that_is_not_as_it_was_made_is_made_anew(recipe, name):
    times_made(recipe)
    (recipe / "build" / "starter" / name).write_text("evil")  # of the same size
    assert times_made(recipe) == 2 and not (recipe / "build" / "starter" / "left-over").exists()


def test_one_of_another_recipe_too(recipe):
    times_made(recipe)
    (recipe / "tools" / "starter-requirements.txt").write_text("another wheel")
    assert times_made(recipe) == 2


def test_one_that_somebody_else_put_there_is_not_taken(recipe):
    (recipe / "build" / "starter").mkdir(parents=True)
    (recipe / "build" / "starter" / "weights").write_text("mine")
    assert times_made(recipe) == 1


def test_a_starter_that_cannot_be_made_is_one_line(recipe, monkeypatch):
    said = "fetching\nerror: the starter model could not be fetched: no network\n"
    monkeypatch.setattr(environment, "_quiet", lambda c: subprocess.CompletedProcess(c, 8, "", said))
    with pytest.raises(BuildError, match="^the starter model could not be fetched: no network$"):
        environment.starter(recipe, recipe / "build" / "starter")


# Its last words ---------------------------------------------------------------------------------------------


def test_sums_are_those_of_the_files(tmp_path):
    for name in ("mlxone", "mlxone-slim", "z.pyz"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    for _ in range(2):  # the second time beside its own first result
        lines = sums.write(tmp_path).read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}"
        for name in ("mlxone", "mlxone-slim", "z.pyz")
    ]


def test_the_table_adds_up(tmp_path):
    for number in range(20):
        part = tmp_path / "_internal" / f"part{number}"
        part.mkdir(parents=True)
        (part / "file").write_bytes(bytes(100_000 * (number + 1)))
        (part / "link").symlink_to("file")
    rows = [line.rsplit(None, 2)[:2] for line in sums.shares(tmp_path, most=3).splitlines()]
    assert [(name.strip(), float(size)) for name, size in rows] == [
        ("part19", 2.0),
        ("part18", 1.9),
        ("part17", 1.8),
        ("17 more", 15.3),
        ("unpacked in all", 21.0),
    ]
