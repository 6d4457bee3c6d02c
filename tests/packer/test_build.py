from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from argparse import Namespace
from pathlib import Path

import pytest

import build
from packer import collect, environment, sums
from packer.collect import Collected
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


@pytest.mark.parametrize(
    "wrong", [["--level", "0"], ["--level", "23"], ["everything"], ["--keep", "--sign", "me"]]
)
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
    assert one.facts == {"commit": None, "dirty": None} and one.commit_time == 315532800


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    commit = ["-c", "user.name=A", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one"]
    for words in (["init", "-q"], commit):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    return tmp_path


def test_the_commit_is_gits_and_changes_are_told(checkout):
    clean = build.Build(Places(checkout), Namespace()).facts
    assert re.fullmatch("[0-9a-f]{40}", str(clean["commit"])) and clean["dirty"] is False
    (checkout / "new").touch()
    assert build.Build(Places(checkout), Namespace()).facts == clean | {"dirty": True}


def test_a_checkout_where_there_is_no_git_is_of_no_known_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout))
    one = build.Build(Places(checkout), Namespace())
    assert one.facts == {"commit": None, "dirty": None} and one.commit_time == 315532800


@pytest.mark.parametrize("question", ["facts", "commit_time"])
def test_a_checkout_that_git_cannot_read_stops_the_build(checkout, question):
    (checkout / ".git" / "HEAD").write_text("nonsense")
    with pytest.raises(BuildError, match=r"git \w+ fails in .*: fatal: .* \(put that right, or") as caught:
        getattr(build.Build(Places(checkout), Namespace()), question)
    assert "\n" not in str(caught.value)


def test_a_checkout_of_somebody_else_is_told_with_its_way_out(checkout, monkeypatch):
    tools = checkout.parent / f"{checkout.name}-tools"
    tools.mkdir()
    (tools / "git").write_text(
        "#!/bin/sh\necho fatal: detected dubious ownership >&2\necho more >&2\nexit 128\n"
    )
    (tools / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(BuildError, match=r"ownership \(git config --global --add safe.directory '") as caught:
        build.git("rev-parse", "HEAD")
    assert str(checkout) in str(caught.value) and "\n" not in str(caught.value)


# What it keeps, and what it leaves to make ----------------------------------------------------------------


@pytest.fixture
def steps(tmp_path, monkeypatch) -> list[str]:
    """A build of which every step is there and none is done; what it collects is of commit `old`."""
    asked: list[str] = []

    def collected(*_: object) -> Collected:
        asked.append("collect")
        return Collected(tmp_path, (), {}, "1.0", {"commit": "new", "dirty": False})

    def made(self: build.Build, name: str) -> Path:
        (self.places.dist / name).write_text(name)
        return self.places.dist / name

    def executable(self: build.Build, kind: str, taken: Collected, _: str) -> Path:
        asked.append(f"{kind} of {taken.facts['commit']}")
        return made(self, {"full": "mlxone", "slim": "mlxone-slim"}[kind])

    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(collect, "collect", collected)
    monkeypatch.setattr(build.Build, "starter", lambda _: None)
    monkeypatch.setattr(build.Build, "licences", lambda *_: "")
    monkeypatch.setattr(build.Build, "executable", executable)
    monkeypatch.setattr(build.Build, "zipapp", lambda self: made(self, "mlxone-cp311-here.pyz"))
    monkeypatch.setattr(sums, "shares", lambda _: "")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / ".begun").touch()
    return asked


def run(root: Path, target: str, *, keep: bool = False) -> Places:
    build.Build(Places(root), Namespace(target=target, keep=keep, sign=None)).run()
    return Places(root)


def test_only_a_whole_build_leaves_a_stamp(tmp_path, steps):
    for target, keep in [("slim", False), ("binary", False), ("zipapp", False), ("all", True)]:
        assert not run(tmp_path, target, keep=keep).finished.exists()
    os.utime(tmp_path / "build" / ".begun", (1e9, 1e9))
    # As old as the sources that were taken, for they may have changed since.
    assert run(tmp_path, "all").finished.stat().st_mtime == 1e9


def test_a_build_that_begins_takes_the_stamp_away(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["build.py", "slim"])
    monkeypatch.setattr(build, "check", lambda *_: None)
    monkeypatch.setattr(environment, "prepare", lambda *_: Path("/bin/false"))
    places = Places(tmp_path)
    places.build.mkdir()
    places.finished.touch()
    assert build.main() == 1 and not places.finished.exists() and places.begun.exists()


def test_what_is_kept_keeps_its_commit(tmp_path, steps, capsys):
    folder = tmp_path / "build" / "work" / "collected"
    folder.mkdir(parents=True)
    (folder / collect.TOLD).write_text('{"modules": [], "files": {}}')
    run(tmp_path, "slim", keep=True)
    assert steps == ["collect", "slim of new"] and "nothing whole to keep" in capsys.readouterr().out
    steps.clear()
    (folder / collect.DONE).write_text('{"version": "0.9", "facts": {"commit": "old", "dirty": true}}')
    run(tmp_path, "slim", keep=True)
    assert steps == ["slim of old"]


def test_of_what_lies_in_dist_only_what_builds_made_is_removed(tmp_path, steps):
    dist = tmp_path / "dist"
    (dist / "mlxone-mine.pyz").mkdir(parents=True)
    (dist / "mlxone-0.1.0-py3-none-any.whl").touch()
    (dist / "mine").symlink_to(tmp_path / "build")
    for name in ("mlxone-cp310-here.pyz", ".mlxone.new", "THIRD-PARTY-LICENSES.txt"):
        (dist / name).touch()
    (dist / "mlxone-cp39-here.pyz").symlink_to(tmp_path / "build")
    run(tmp_path, "all")
    assert {path.name for path in dist.iterdir()} == {
        *("mlxone", "mlxone-slim", "mlxone-cp311-here.pyz", "THIRD-PARTY-LICENSES.txt", "SHA256SUMS"),
        *("mlxone-mine.pyz", "mlxone-0.1.0-py3-none-any.whl", "mine"),
    }
    assert (tmp_path / "build").is_dir() and ".whl" not in (dist / "SHA256SUMS").read_text()


@pytest.fixture
def sources(tmp_path) -> Path:
    """Just so many files that the Makefile can be asked what it would do."""
    for name in ("mlxone/cli/verb.py", "mlxone/other.py", "packer/words.py", "tools/make_starter.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("build.py", "pyproject.toml", "constraints.txt", "LICENSE", "README.md"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("dist/mlxone", "dist/mlxone-slim", "dist/mlxone-cp311-here.pyz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e9, 1e9))
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / ".dist").touch()
    os.utime(tmp_path / "build" / ".dist", (1.1e9, 1.1e9))
    return tmp_path


def would_build(root: Path) -> bool:
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--question", "PYTHON=false", "BACKEND=none", "build/.dist"]
    done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 1


def test_make_builds_nothing_where_nothing_changed(sources):
    (sources / "mlxone" / "__pycache__").mkdir()
    (sources / "mlxone" / "__pycache__" / "other.pyc").touch()
    os.utime(sources / "mlxone", (1e9, 1e9))
    assert not would_build(sources)


@pytest.mark.parametrize("name", ["mlxone/cli/verb.py", "LICENSE", "README.md", "tools/make_starter.py"])
def test_make_notices_a_changed_source(sources, name):
    (sources / name).touch()
    assert would_build(sources)


def test_make_notices_a_source_that_went(sources):
    (sources / "mlxone" / "cli" / "verb.py").unlink()
    assert would_build(sources)


@pytest.mark.parametrize("name", ["build/.dist", "dist/mlxone", "dist/mlxone-cp311-here.pyz"])
def test_make_notices_what_is_not_there(sources, name):
    (sources / name).unlink()
    assert would_build(sources)


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


# Its Python -----------------------------------------------------------------------------------------------


@pytest.fixture
def python(tmp_path, monkeypatch) -> dict[str, object]:
    """What a Python says of itself; `prefix` is where it lies."""
    said: dict[str, object] = {"LDVERSION": "3.11", "LIBDIR": str(tmp_path / "lib64")}
    monkeypatch.setattr(sysconfig, "get_config_var", said.get)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    for folder in ("lib", "lib64"):
        (tmp_path / folder).mkdir()
    return said


SHARED = {"Py_ENABLE_SHARED": 1, "INSTSONAME": "libpython3.11.so.1.0"}


@pytest.mark.parametrize(("folder", "says"), [("lib", SHARED), ("lib64", SHARED), ("lib", {})])
def test_a_python_with_its_library_is_taken(tmp_path, python, folder, says):
    python |= says
    with pytest.raises(BuildError, match=r"^\S+ has no shared library libpython3\.11\.so\.1\.0, .*shared\)$"):
        environment.check_library()
    (tmp_path / folder / "libpython3.11.so.1.0").touch()
    environment.check_library()


def test_one_without_may_not_borrow_from_elsewhere(tmp_path, python):
    (tmp_path / "lib64" / "libpython3.11.so.1.0").touch()
    with pytest.raises(BuildError, match="--enable-shared"):
        environment.check_library()


def test_debians_own_is_told_its_package(python, monkeypatch):
    python |= SHARED | {"INSTSONAME": "libpython3.99.so.1.0", "LIBDIR": "/usr/lib"}
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(environment, "DEBIAN", Path(__file__))
    with pytest.raises(BuildError, match=r"\(apt install libpython3\.99\)$"):
        environment.check_library()


def test_a_framework_of_macos_is_its_own_library(python, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BuildError, match=r"no shared library libpython3\.11\.dylib"):
        environment.check_library()
    python["PYTHONFRAMEWORK"] = "Python"
    environment.check_library()


def test_a_python_without_is_told_before_anything_is_done(monkeypatch):
    def without() -> None:
        raise BuildError("no library")

    monkeypatch.setattr(environment, "check_library", without)
    with pytest.raises(BuildError, match="no library"):
        build.check((3, 11), sys.executable)


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


@pytest.mark.parametrize(("name", "value"), [("TOOLS", ("shiv",)), ("EXTRA", "[other]")])
def test_so_do_other_tools_and_another_backend(project, commands, monkeypatch, name, value):
    environment.prepare(project, project / "env")
    commands.asked.clear()
    monkeypatch.setattr(environment, name, value)
    environment.prepare(project, project / "env")
    assert "-m venv" in commands.asked[0]


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
    names = ("mlxone", "mlxone-cp311-here.pyz", "mlxone-slim")
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 1000)
    for _ in range(2):  # the second time beside its own first result
        lines = sums.write(tmp_path, sums.built(tmp_path)).read_text().splitlines()
    assert lines == [
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}" for name in names
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
