from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from packer import collect, contents, program
from packer.collect import Collected


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What PyInstaller leaves, in small."""
    tree = tmp_path / "collected"
    (tree / "_internal" / "mlx_cpu.libs").mkdir(parents=True)
    (tree / "mlxone").write_bytes(b"program")
    (tree / "mlxone").chmod(0o755)
    (tree / "_internal" / "mlx_cpu.libs" / "libgfortran-f00.so.5.0.0").write_bytes(b"fortran")
    (tree / "_internal" / "libgfortran-f00.so.5.0.0").symlink_to("mlx_cpu.libs/libgfortran-f00.so.5.0.0")
    return tree


# Trees ------------------------------------------------------------------------------------------------


def files_of(tree: Path) -> dict[str, bytes | str]:
    paths = sorted(path for path in tree.rglob("*") if path.is_symlink() or path.is_file())
    return {
        str(path.relative_to(tree)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in paths
    }


def test_the_two_kinds_differ_in_the_starter_and_their_names(tmp_path, tree):
    starter = tmp_path / "starter"
    (starter / "deep").mkdir(parents=True)
    (starter / "starter.json").write_text("{}")
    (starter / "deep" / "weights").write_bytes(b"w")
    before = files_of(tree)
    made = Collected(tree, (), {})
    for kind in ("slim", "full"):
        facts = {"commit": None, "dirty": False, "kind": kind}
        collect.finish(made, tmp_path / kind, facts, "licences\n", starter if kind == "full" else None)
    slim, full = files_of(tmp_path / "slim"), files_of(tmp_path / "full")
    assert json.loads(slim.pop("_internal/mlxone/build.json"))["kind"] == "slim"
    assert json.loads(full.pop("_internal/mlxone/build.json"))["kind"] == "full"
    assert slim.pop("licenses.txt") == b"licences\n" and slim == before == files_of(tree)
    assert set(full) - set(slim) == {
        "licenses.txt",
        "_internal/mlxone_starter/starter.json",
        "_internal/mlxone_starter/deep/weights",
    }
    assert os.access(tmp_path / "full" / "mlxone", os.X_OK)


def test_a_tree_of_an_earlier_build_goes(tmp_path, tree):
    (tmp_path / "slim").mkdir()
    (tmp_path / "slim" / "old").touch()
    collect.finish(Collected(tree, (), {}), tmp_path / "slim", {}, "", None)
    assert not (tmp_path / "slim" / "old").exists()


def test_openblas_finds_fortran_under_its_public_name(tree):
    for _ in range(2):
        collect.give_other_names(tree / "_internal")
        assert (tree / "_internal" / "libgfortran.so.5").read_bytes() == b"fortran"
    assert os.readlink(tree / "_internal" / "libgfortran.so.5") == "mlx_cpu.libs/libgfortran-f00.so.5.0.0"
    assert not (tree / "_internal" / "mlx.metallib").is_symlink()  # macOS's


def test_metal_kernels_are_found_beside_the_link_to_mlx(tree):
    (tree / "_internal" / "mlx" / "lib").mkdir(parents=True)
    (tree / "_internal" / "mlx" / "lib" / "mlx.metallib").write_bytes(b"kernels")
    collect.give_other_names(tree / "_internal")
    assert (tree / "_internal" / "mlx.metallib").read_bytes() == b"kernels"


# What is in it ------------------------------------------------------------------------------------------


def test_packages_are_found_by_their_modules():
    found = Collected(Path(), ("click.core", "json", "markdown_it", "yaml.nodes", "click"), {}).distributions
    assert [d.metadata["Name"] for d in found] == ["click", "markdown-it-py", "PyYAML"]


@pytest.mark.skipif(sys.platform != "linux", reason="these packages are Linux's")
@pytest.mark.parametrize(("name", "start"), [("cmeel-openblas", "cmeel.prefix"), ("mlx-cpu", "mlx_cpu.libs")])
def test_packages_of_libraries_only_are_found_by_their_files(name, start):
    import importlib.metadata

    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: another backend")
    file = next(f for f in files if str(f).startswith(start) and ".so" in f.name)
    found = Collected(Path(), (), {str(file): Path(str(file.locate()))}).distributions
    assert name in [d.metadata["Name"] for d in found]


def test_metadata_says_name_and_version_and_nothing_of_this_machine(tmp_path):
    from importlib.metadata import distribution, distributions

    collect.write_metadata(tmp_path, [distribution("click"), distribution("markdown-it-py")])
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["METADATA", "METADATA"]
    packed = {d.metadata["Name"]: d for d in distributions(path=[str(tmp_path)])}
    for name in ("click", "markdown-it-py"):
        assert packed[name].version == distribution(name).version
        assert packed[name].requires == distribution(name).requires
    assert all(len(path.read_bytes()) < 4000 for path in tmp_path.rglob("METADATA"))


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("strip"), reason="nothing is stripped here")
def test_only_pythons_own_files_lose_their_symbols(tmp_path):
    import _json

    if not getattr(_json, "__file__", None):
        pytest.skip("this Python has its modules built in")
    source = Path(_json.__file__)
    for name in ("ours.so", "wheel.so", "page.txt"):
        shutil.copy(source, tmp_path / name)
    origins = {"ours.so": source, "wheel.so": tmp_path / "elsewhere" / "wheel.so", "page.txt": source}
    assert list(collect.of_python(tmp_path, origins)) == [tmp_path / "ours.so"]
    collect.strip_symbols(tmp_path / "ours.so")
    assert b".symtab" not in (tmp_path / "ours.so").read_bytes()


def test_a_wheels_files_stay_also_where_the_environment_lies_under_python(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "src" / "build" / "env"))
    origins = {"a.so": tmp_path / "lib" / "a.so", "b.so": tmp_path / "src" / "build" / "env" / "lib" / "b.so"}
    assert list(collect.of_python(tmp_path / "tree", origins)) == [tmp_path / "tree" / "a.so"]


# Whether it is whole ----------------------------------------------------------------------------------------

FACTS = {"commit": "0" * 40, "dirty": True}


@pytest.fixture
def pyinstaller(tmp_path, monkeypatch) -> Path:
    """Where a PyInstaller that works leaves its folder."""

    def gathered(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        tree = Path(command[command.index("--distpath") + 1]) / "tree" / "_internal"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        (tree.parent.parent / collect.TOLD).write_text('{"modules": ["json"], "files": {}}')
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", gathered)
    return tmp_path


def test_what_was_collected_is_kept_with_its_facts(pyinstaller):
    made = collect.collect(Path("spec"), pyinstaller, "1.2", FACTS)
    assert collect.kept(pyinstaller) == made and (made.version, made.facts) == ("1.2", FACTS)
    collect.forget(pyinstaller)
    assert collect.kept(pyinstaller) is None


@pytest.mark.parametrize("last", ["write_metadata", "give_other_names"])
def test_what_died_on_the_way_is_not_taken_for_whole(pyinstaller, monkeypatch, last):
    collect.collect(Path("spec"), pyinstaller, "1.2", FACTS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(collect, last, killed)
    with pytest.raises(KeyboardInterrupt):
        collect.collect(Path("spec"), pyinstaller, "1.3", FACTS)
    assert collect.kept(pyinstaller) is None


# What is left out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("libssl.so.3", True),
        ("mlx/lib/libmlx.so", True),
        ("certifi/cacert.pem", True),
        ("cmeel.prefix/lib/libopenblas.so", True),
        ("cmeel.prefix/lib/libopenblas.so.0", False),
        ("libreadline.so.8", False),
        ("deeper/libgdbm_compat.so.4", False),
        ("python3.11/lib-dynload/_gdbm.cpython-311-x86_64-linux-gnu.so", False),
        ("python3.11/lib-dynload/readline.cpython-311-x86_64-linux-gnu.so", True),
        ("libtinfo.so.6", False),
        ("mlx-0.32.4.dist-info/RECORD", False),
        ("mlxone-0.1.0.dist-info/direct_url.json", False),
        ("mlxone/py.typed", False),
    ],
)
def test_what_stays(name, stays):
    assert contents.wanted(name) is stays


def test_nothing_that_is_added_is_left_out():
    assert not set(contents.HIDDEN) & set(contents.EXCLUDED)
    assert all(contents.wanted(f"{folder}/{Path(source).name}") for source, folder in contents.libraries())


# Where the program begins -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(None, None), ("/opt/lib", "/opt/lib"), ("", None)])
def test_children_get_the_callers_environment_back(monkeypatch, before, after):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/somewhere/_internal")
    monkeypatch.setenv("_PYI_ARCHIVE_FILE", "/somewhere/mlxone")
    monkeypatch.setenv("_PYI_PARENT_PROCESS_LEVEL", "0")
    if before is None:
        monkeypatch.delenv("LD_LIBRARY_PATH_ORIG", raising=False)
    else:
        monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", before)
    program.restore_environment()
    assert os.environ.get("LD_LIBRARY_PATH") == after
    assert not [name for name in os.environ if name.startswith("_PYI_") or name == "LD_LIBRARY_PATH_ORIG"]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has a store that is always there")
@pytest.mark.parametrize("missing", [True, False])
def test_certificates_come_along_where_there_are_none(monkeypatch, tmp_path, missing):
    (tmp_path / "certifi").mkdir()
    (tmp_path / "certifi" / "cacert.pem").touch()
    (tmp_path / "of-the-system").touch()
    monkeypatch.setattr(program, "__file__", str(tmp_path / "program.py"))
    monkeypatch.setattr(
        program, "CERTIFICATES", (str(tmp_path / ("absent" if missing else "of-the-system")),)
    )
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    program.bring_certificates()
    assert os.environ.get("SSL_CERT_FILE") == (str(tmp_path / "certifi" / "cacert.pem") if missing else None)


def test_the_users_choice_of_certificates_stands(monkeypatch, tmp_path):
    (tmp_path / "certifi").mkdir()
    (tmp_path / "certifi" / "cacert.pem").touch()
    monkeypatch.setattr(program, "__file__", str(tmp_path / "program.py"))
    monkeypatch.setattr(program, "CERTIFICATES", ())
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", "/mine")
    program.bring_certificates()
    assert "SSL_CERT_FILE" not in os.environ
