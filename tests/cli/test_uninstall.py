"""`uninstall`, from the command line to the disk; what may go is proved in tests/hub/test_runtimes.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlxone.cli import completion, terminal
from mlxone.core import about
from mlxone.hub import in_use, leaving, own_state, places, runtimes
from tests.cli.shelf import refreshed
from tests.hub.unpacked import BYTES, NAME, ZIPAPP, folder, held, running_from, unpacked


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(leaving, "SYSTEM_UNITS", tmp_path / "units")


@pytest.fixture
def typed(monkeypatch, mlxone):
    def run(*args, answer):
        monkeypatch.setattr(terminal, "is_terminal", lambda stream: stream in (sys.stdin, sys.stderr))
        return mlxone(*args, stdin=answer.encode())

    return run


@pytest.fixture
def executable(tmp_path):
    """A file that somebody downloaded, with a name that a shell would take apart."""
    path = tmp_path / "my tools" / "mlxone"
    path.parent.mkdir()
    path.touch()
    return path


def history() -> Path:
    path = places.home() / "history"
    path.parent.mkdir(exist_ok=True)
    path.write_text('"hello"\n')
    return path


def test_it_asks_with_places_and_sizes_and_tells_what_stays(typed, executable):
    runtime, kept = unpacked(NAME, executable), history()
    result = typed("uninstall", answer="y\n")
    assert (result.code, runtime.exists(), kept.exists(), executable.exists()) == (0, False, True, True)
    assert "of mlxone would be deleted:\n" in result.err and f"  {runtime} (" in result.err
    assert result.err.endswith("Delete it? [y/N] ")
    freed, *stays = result.out.splitlines()
    assert freed.endswith(" B came free")
    assert f"stays: program: {executable}: `rm '{executable}'` deletes it" in stays[0]
    assert any(f"state: {places.home()} (8 B): `mlxone uninstall --all` deletes it" in line for line in stays)


@pytest.mark.parametrize("answer", ["\n", "", "n\n", "what\n"])
def test_anything_but_yes_is_no(typed, answer):
    runtime = unpacked()
    result = typed("uninstall", answer=answer)
    assert (result.code, result.out, runtime.exists()) == (1, "", True)
    assert result.err.endswith("nothing was deleted\n")


def test_a_script_is_shown_the_plan_and_has_to_say_yes(mlxone):
    runtime = unpacked()
    result = mlxone("uninstall")
    assert (result.code, runtime.exists()) == (2, True)
    assert str(runtime) in result.out and "--yes" in result.err
    assert mlxone("uninstall", "--yes").code == 0
    assert not runtime.exists()


def test_nothing_unpacked_needs_no_question(mlxone):
    result = mlxone("uninstall")
    assert result.code == 0
    first, package = result.out.splitlines()
    assert first == "nothing that mlxone unpacked is here"
    assert str(about.PACKAGE.parent) in package


def test_an_installed_package_is_told_how_it_goes(mlxone, monkeypatch):
    monkeypatch.setattr(about, "kind", lambda: "wheel")
    assert f"`{sys.executable} -m pip uninstall mlxone`" in mlxone("uninstall").out


def test_the_one_file_itself_is_told_with_the_line_that_deletes_it(mlxone, monkeypatch, executable):
    monkeypatch.setattr(about, "kind", lambda: "full")
    monkeypatch.setenv(about.EXECUTABLE, str(executable))
    unpacked(NAME, executable)
    result = mlxone("uninstall", "--yes")
    assert result.out.count(f"`rm '{executable}'`") == 1
    assert "pip" not in result.out and executable.exists()


def test_one_in_a_folder_of_root_needs_sudo(mlxone, monkeypatch, executable):
    unpacked(NAME, executable)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert f"`sudo rm '{executable}'`" in mlxone("uninstall", "--yes").out


def test_homebrews_is_homebrews(mlxone, tmp_path):
    real = tmp_path / "Cellar" / "mlxone" / "1" / "bin" / "mlxone"
    real.parent.mkdir(parents=True)
    real.touch()
    link = tmp_path / "mlxone"
    link.symlink_to(real)
    unpacked(NAME, link)
    assert f"{link}: `brew uninstall mlxone`" in mlxone("uninstall", "--yes").out


def test_models_and_the_config_file_stay_and_are_told(mlxone):
    repo = refreshed()
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text("")
    result = mlxone("uninstall", "--all", "--yes")
    assert result.code == 0
    size = sum(
        path.lstat().st_size for path in repo.folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
    assert f"stays: models: {places.hf_cache()} ({size} B): " in result.out
    assert f"stays: config: {places.config_file()}: `rm {places.config_file()}`" in result.out
    assert repo.folder.exists() and places.config_file().exists()


def test_all_takes_our_own_state_and_names_it_first(typed):
    kept, mine = history(), places.home() / "notes.txt"
    mine.write_text("mine")
    result = typed("uninstall", "--all", answer="y\n")
    assert (result.code, kept.exists(), mine.read_text()) == (0, False, "mine")
    assert f"\n  {kept}\n" in result.err
    assert result.out.startswith("8 B came free\n")
    assert f"stays: others: {places.home()}: 1 thing that mlxone did not make: notes.txt\n" in result.out


def test_a_history_that_is_not_ours_stays_and_is_named(mlxone):
    kept = history()
    kept.write_text("ls -l\n")
    result = mlxone("uninstall", "--all", "--yes")
    assert (result.code, kept.read_text()) == (0, "ls -l\n")
    assert "1 thing that mlxone did not make: history\n" in result.out


def test_of_many_strangers_some_are_named(mlxone):
    places.home().mkdir()
    for name in "gfedcba":
        (places.home() / name).touch()
    said = "7 things that mlxone did not make: a, b, c, d, e, …\n"
    assert said in mlxone("uninstall", "--all", "--yes").out


def test_what_a_running_mlxone_has_open_stays(mlxone, tmp_path):
    kept = history()
    with in_use.in_use(tmp_path / "model", what="serve"):
        result = mlxone("uninstall", "--all", "--yes")
    assert (result.code, kept.exists()) == (9, True)
    assert f"{places.home()}: history: in use by `mlxone serve` (process {os.getpid()})" in result.err
    assert own_state.END_IT in result.err
    assert "came free" not in result.out and "nothing that" not in result.out


@pytest.fixture
def sealed(monkeypatch):
    """A home of mode 0300: for root, who runs tests too, that would change nothing."""
    real = os.listdir

    def listdir(path):
        if Path(path) == places.home():
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    return f"{places.home()}: it cannot be listed: Permission denied"


def test_a_home_that_cannot_be_listed_is_a_problem_for_all(mlxone, sealed):
    kept, runtime = history(), unpacked()
    result = mlxone("uninstall", "--all", "--yes")
    assert (result.code, kept.exists(), runtime.exists()) == (9, True, False)
    assert f"{sealed} (the rest was deleted)" in result.err
    result = mlxone("uninstall", "--all", "--yes")
    assert (result.code, "nothing that" in result.out, sealed in result.err) == (9, False, True)
    stays = json.loads(mlxone("uninstall", "--all", "--json").out)["stays"]
    [state] = [rest for rest in stays if rest["failed"]]
    assert (state["kind"], state["path"]) == (leaving.STATE, str(places.home()))


def test_and_without_all_only_told(mlxone, sealed):
    history()
    result = mlxone("uninstall", "--yes")
    assert (result.code, result.err) == (0, "")
    assert f"stays: state: {sealed}\n" in result.out


def test_what_completion_told_to_install_is_told(mlxone, home, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mlxone").write_text("#!/bin/sh\necho script\n")
    (tmp_path / "bin" / "mlxone").chmod(0o755)
    (home / ".config" / "fish" / "completions").mkdir(parents=True)
    told = [line.strip().partition(": ") for line in completion.command.help.splitlines()]
    lines = {shell: line for shell, _, line in told if shell in ("bash", "zsh", "fish")}
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(home)}
    assert len(lines) == 3
    for line in lines.values():
        subprocess.run(["sh", "-c", line], env=environment, check=True)
    out = mlxone("uninstall").out
    for shell in ("bash", "zsh"):
        line = f"delete the line with `mlxone completion {shell}` from it"
        assert f"stays: completion: {home}/.{shell}rc: {line}\n" in out
    script = home / ".config" / "fish" / "completions" / "mlxone.fish"
    assert f"stays: completion: {script}: `rm {script}` deletes it\n" in out


@pytest.mark.parametrize("content", [None, b"", b"# mlxone completion bash\n", b"alias m=mlxone\xff\n"])
def test_shell_settings_without_it_are_not(mlxone, home, content):
    rc = home / ".bashrc"
    if content is None:
        os.mkfifo(rc)  # which nobody waits for
    else:
        rc.write_bytes(content)
    result = mlxone("uninstall")
    assert (result.code, "completion" in result.out) == (0, False)


def test_services_are_told_with_the_lines_that_end_them(mlxone, home, tmp_path):
    system, own = tmp_path / "units", home / ".config" / "systemd" / "user"
    for place in (system, own):
        place.mkdir(parents=True)
        (place / "mlxone.service").touch()
        (place / "other.service").touch()
    services = [line for line in mlxone("uninstall").out.splitlines() if ": service: " in line]
    unit = f"{system}/mlxone.service"
    assert services == [
        f"stays: service: {unit}: `sudo systemctl disable --now mlxone && sudo rm {unit} && "
        "sudo systemctl daemon-reload` ends and deletes it",
        f"stays: service: {own}/mlxone.service: `systemctl --user disable --now mlxone && "
        f"rm {own}/mlxone.service && systemctl --user daemon-reload` ends and deletes it",
    ]
    assert (own / "mlxone.service").exists() and (system / "mlxone.service").exists()


def test_one_in_use_stays_the_others_go_and_the_code_says_so(mlxone):
    busy, idle = unpacked(), unpacked(ZIPAPP)
    with held(busy):
        result = mlxone("uninstall", "--yes")
    assert (result.code, busy.exists(), idle.exists()) == (9, True, False)
    assert f"{busy}: {runtimes.IN_USE} (the rest was deleted)" in result.err
    assert "stays: unpacked" not in result.out


def test_the_only_one_in_use_is_not_nothing(mlxone):
    busy = unpacked()
    with held(busy):
        result = mlxone("uninstall")
    assert (result.code, busy.exists()) == (9, True)
    assert "nothing that" not in result.out and "came free" not in result.out
    assert f"{busy}: another mlxone runs from it: end it, then run `mlxone uninstall` again\n" in result.err


def test_a_disk_that_refuses_is_named(mlxone, monkeypatch):
    runtime = unpacked()

    def refuse(path, target):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    result = mlxone("uninstall", "--yes")
    assert (result.code, runtime.exists()) == (9, True)
    assert f"{runtime}: Permission denied" in result.err and "the rest" not in result.err


def test_json_alone_is_the_plan(mlxone, executable):
    runtime = unpacked(NAME, executable)
    result = mlxone("uninstall", "--json")
    assert (result.code, result.err, runtime.exists()) == (0, "", True)
    said = json.loads(result.out)
    [found], [program, package] = said["runtimes"], said["stays"]
    assert found == {
        "path": str(runtime),
        "bytes": said["bytes"],
        "origin": str(executable),
        "own": False,
        "leftover": False,
    }
    assert said["bytes"] > BYTES
    assert (said["deleted"], said["freed_bytes"], said["state"], said["problems"]) == (False, 0, [], [])
    assert (program["kind"], program["path"], program["in_use"]) == ("program", str(executable), False)
    assert package["kind"] == "package"


def test_json_with_yes_is_the_result(mlxone):
    busy = unpacked(ZIPAPP)
    unpacked()
    kept = history()
    with held(busy):
        result = mlxone("uninstall", "--json", "--yes", "--all")
    said = json.loads(result.out)
    assert (result.code, said["deleted"], said["state"], kept.exists()) == (9, True, [], True)
    assert said["freed_bytes"] == said["bytes"]
    state = f"{places.home()}: history: another mlxone runs: {own_state.END_IT}"
    assert said["problems"] == [f"{busy}: {runtimes.IN_USE}", state]
    assert said["stays"][0] == {
        "kind": leaving.RUNTIME,
        "path": str(busy),
        "bytes": 0,
        "way": runtimes.IN_USE,
        "in_use": True,
        "failed": False,
    }


# A process whose own files are the ones that go: whatever it imports afterwards is not there any more.
SAWN_OFF = """
import sys
from pathlib import Path
from mlxone.core import about
from mlxone.hub import runtimes
about.PACKAGE = Path(sys.argv.pop(1))
remove = runtimes._remove

class Gone:
    def find_spec(self, name, path=None, target=None):
        sys.stderr.write(f"imported afterwards: {name}\\n")

def sawing(runtime):
    done = remove(runtime)
    if runtime.own:
        sys.meta_path.insert(0, Gone())
        if broken:
            done.problems.append("broken: on purpose")
    return done

broken = sys.argv[1] == "broken" and sys.argv.pop(1)
runtimes._remove = sawing
from mlxone.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--yes"], 0), (["--yes", "--json"], 0), (["--yes", "--all"], 0), (["--yes", "--verbose"], 9)],
)
def test_nothing_is_imported_when_our_own_files_are_gone(flags, code, monkeypatch):
    own = unpacked()
    with monkeypatch.context() as patch:
        running_from(own, patch)
    unpacked(ZIPAPP)
    history()
    how = ["broken"] if code else []
    command = [sys.executable, "-c", SAWN_OFF, str(own / "_internal" / "mlxone"), *how, "uninstall", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "imported afterwards" not in done.stderr
    assert (done.returncode, folder().exists()) == (code, False)
    assert ("broken: on purpose" in done.stderr) is bool(code)
