"""What the program knows of itself, as a source tree, a package, a binary and a zipapp."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mlxone import __version__
from mlxone.core import about

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package in a folder of its own, which is not yet any kind of build."""
    place = tmp_path / "site" / "mlxone"
    place.mkdir(parents=True)
    monkeypatch.setattr(about, "PACKAGE", place)
    monkeypatch.delenv(about.EXECUTABLE, raising=False)
    return place


def packed(package: Path, kind: str = "full", **said: Any) -> None:
    (package / "build.json").write_text(json.dumps({"commit": COMMIT, "dirty": False, "kind": kind, **said}))


def frozen(monkeypatch: pytest.MonkeyPatch, program: str = "/run/time/mlxone") -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", program)


def test_all_of_it():
    found = about.about()
    assert found.version == __version__
    assert found.kind == "source"
    assert found.mlx == metadata.version("mlx")
    assert found.python == platform.python_version()
    assert found.platform == f"{sys.platform}-{platform.machine()}"
    assert found.backend in ("cpu", "cuda", "metal")
    assert os.access(found.executable, os.X_OK)


def test_asking_brings_no_mlx_and_nothing_else_from_outside():
    code = "import sys\nfrom mlxone.core.about import about\nabout()\nprint(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {name.partition(".")[0] for name in child.stdout.split()} - sys.stdlib_module_names
    assert not loaded & {"mlx", "click", "huggingface_hub"}


# Which build ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["full", "slim", "zipapp"])
def test_a_packed_build_says_what_it_is(kind: str, package: Path):
    packed(package, kind)
    assert about.build() == about.Build(COMMIT, False, kind)  # type: ignore[arg-type]
    assert about.is_packed()


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"kind": "other"}', '{"kind": ["full"]}'])
def test_a_damaged_build_json_hides_nothing(text: str, package: Path, monkeypatch: pytest.MonkeyPatch):
    (package / "build.json").write_text(text)
    assert about.build() == about.Build(None, None, "wheel")
    frozen(monkeypatch)
    assert about.kind() == "slim"
    (package.parent / "mlxone_starter").mkdir()
    assert about.kind() == "full"


def test_values_of_other_types_are_not_passed_on(package: Path):
    packed(package, commit=3, dirty="no")
    assert about.build() == about.Build(None, None, "full")


def test_an_installed_package_has_no_commit(package: Path):
    assert about.build() == about.Build(None, None, "wheel")
    assert not about.is_packed()


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *own, *words], cwd=folder, env={**os.environ, "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_checkout_asks_git(package: Path):
    tree = package.parent
    (tree / "pyproject.toml").touch()
    assert about.build() == about.Build(None, None, "source")  # a tree that is no checkout
    git(tree, "init", "-q")
    git(tree, "add", ".")
    assert about.build() == about.Build(None, None, "source")  # nothing committed yet
    git(tree, "commit", "-qm", "x")
    assert about.build() == about.Build(git(tree, "rev-parse", "HEAD"), False, "source")
    (tree / "new").touch()
    assert about.build().dirty is True


def test_a_checkout_around_it_is_not_its_own(package: Path):
    git(package.parent.parent, "init", "-q")
    git(package.parent.parent, "commit", "-qm", "x", "--allow-empty")
    (package.parent / "pyproject.toml").touch()
    assert about.build() == about.Build(None, None, "source")


def test_without_git_there_is_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch):
    (package.parent / "pyproject.toml").touch()
    (package.parent / ".git").mkdir()
    monkeypatch.setenv("PATH", str(package))
    assert about.build() == about.Build(None, None, "source")


# What starts it again ------------------------------------------------------------------------


def test_python_starts_a_package(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(about.EXECUTABLE, "/another/mlxone")  # inherited: a binary started a shell
    assert about.own_command() == [sys.executable, "-P", "-m", "mlxone"]
    assert about.runtime_folder() is None
    monkeypatch.setattr(sys, "executable", str(package / "python"))
    assert about.executable() == str(package / "python")
    (package / "mlxone").touch()
    assert about.executable() == str(package / "mlxone")


def test_the_binary_starts_itself(package: Path, monkeypatch: pytest.MonkeyPatch):
    packed(package)
    frozen(monkeypatch)
    assert about.own_command() == ["/run/time/mlxone"]
    assert about.runtime_folder() == Path("/run/time")
    assert about.executable() == "/run/time/mlxone"  # started without the launcher
    monkeypatch.setenv(about.EXECUTABLE, "/down load/mlxone")
    assert about.executable() == "/down load/mlxone"
    assert about.own_command() == ["/run/time/mlxone"]  # the file is gone since
    (package / "mlxone").touch(mode=0o755)
    monkeypatch.setenv(about.EXECUTABLE, str(package / "mlxone"))
    assert about.own_command() == [str(package / "mlxone")]


def test_a_zipapp_is_given_to_its_python(package: Path, monkeypatch: pytest.MonkeyPatch):
    packed(package, "zipapp")
    monkeypatch.setenv(about.EXECUTABLE, "/x/mlxone.pyz")
    assert about.own_command() == [sys.executable, "/x/mlxone.pyz"]
    assert about.executable() == "/x/mlxone.pyz"
    assert about.runtime_folder() is None


def test_the_command_starts_this_program():
    done = subprocess.run([*about.own_command(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"mlxone {__version__}\n"


# Versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "backend"),
    [
        ({"mlx", "mlx-cpu"}, "cpu"),
        ({"mlx", "mlx-metal"}, "metal"),
        ({"mlx", "mlx-cuda-13"}, "cuda"),
        ({"mlx", "mlx-cpu", "mlx-cuda-12"}, "cuda"),
        ({"mlx"}, None),
        (set(), None),
    ],
)
def test_the_backend_by_what_is_installed(
    installed: set[str], backend: str | None, monkeypatch: pytest.MonkeyPatch
):
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)
    assert about.about().backend == backend
    assert about.about().mlx == ("1.2.3" if "mlx" in installed else None)


def test_the_platform_is_one_word():
    assert re.fullmatch(r"\w+-\w+", about.about().platform)
