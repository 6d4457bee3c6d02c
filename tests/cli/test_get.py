"""`mlxone get` from end to end, against a Hub on this machine."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxone.cli.main import main
from mlxone.hub import places, starter
from tests.cli.conftest import Result
from tests.hub.conftest import fake_hub as fake_hub  # a fixture: this name is what asks for it
from tests.hub.fake_hub import FakeHub, Fault, Repo, refuse
from tests.hub.seen import FILES, NAME, NEEDED, contents

ROOT = Path(__file__).parents[2]


def gguf(content: bytes) -> bytes:
    return content * 2_000


GGUF = {"README.md": b"#", "m-Q4_0.gguf": gguf(b"4"), "m-Q8_0.gguf": gguf(b"8")}


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo(dict(FILES), revisions=("main", "v2"))
    return fake_hub.repos[NAME]


@pytest.fixture
def get(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        code = main(["get", *args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def snapshot(commit: str = "a" * 40) -> Path:
    return places.hf_cache() / "models--org--model" / "snapshots" / commit


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A whole starter, inside the program or prepared."""
    if request.param == "inside":
        monkeypatch.setattr(places, "BUNDLED", tmp_path / "mlxone_starter")
    folder = places.BUNDLED if request.param == "inside" else places.starter_folder()
    folder.mkdir(parents=True)
    for name in starter.REQUIRED:
        (folder / name).write_text(name)
    starter.write_manifest(folder, "test")
    return folder


@pytest.mark.parametrize("at_hand", ["inside", "prepared"], indirect=True)
def test_a_starter_that_is_here_is_not_fetched(fake_hub: FakeHub, at_hand: Path, get):
    result = get("starter")
    assert (result.code, result.out, fake_hub.log) == (0, f"{at_hand}\n", [])
    where = "inside this program" if at_hand == places.BUNDLED else "already"
    assert result.err == f"the starter is here {where}; `mlxone get {starter.REPO}` gets its original\n"
    found = json.loads(get("--model", "starter", "--json", "--quiet").out)
    assert found["folder"] == str(at_hand) and found["bytes_fetched"] == 0
    assert found["bytes"] == sum((at_hand / name).stat().st_size for name in found["files"])
    assert set(found["files"]) == {path.name for path in at_hand.iterdir()}
    assert get("starter", "--quiet").err == ""


@pytest.mark.parametrize("at_hand", ["inside"], indirect=True)
@pytest.mark.parametrize("more", [["--revision", "main"], ["--verify"], ["--to", "x"], ["--include", "*"]])
def test_who_asks_for_more_asks_the_hub(
    fake_hub: FakeHub, at_hand: Path, get, more: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(at_hand.parent)
    get("starter", *more)
    assert fake_hub.log != []


def test_stdout_is_the_folder_and_stderr_the_files(repo: Repo, get):
    result = get(NAME)
    assert (result.code, result.out) == (0, f"{snapshot()}\n")
    first, *lines = result.err.splitlines()
    assert re.fullmatch(r"downloading org/model \(\d+ kB\)", first)
    assert {line.partition(" (")[0] for line in lines} == NEEDED
    assert lines[-1] == "config.json (23 B)"


def test_a_refresh_with_nothing_new_says_nothing(repo: Repo, get):
    get(NAME)
    assert get(NAME) == Result(0, f"{snapshot()}\n", "")


def test_a_query_refreshes_what_is_there(repo: Repo, get):
    get(NAME)
    repo.commit = "d" * 40
    assert get("model").out == f"{snapshot('d' * 40)}\n"


def test_a_query_fetches_the_rest_of_what_is_half_there(repo: Repo, get):
    repo.always["config.json"] = Fault(status=403)
    assert get(NAME).code == 8
    repo.always.clear()
    (snapshot() / "config.json").write_bytes(FILES["config.json"])
    (snapshot() / "model-00001-of-00002.safetensors").unlink()
    assert get("model").out == f"{snapshot()}\n"
    assert contents(snapshot()) == {name: FILES[name] for name in NEEDED}


def test_a_query_refreshes_a_gguf_file(fake_hub: FakeHub, get):
    fake_hub.repos[NAME] = repo = Repo(dict(GGUF))
    get(NAME, "--include", "*.gguf")
    repo.commit = "d" * 40
    repo.files = {**GGUF, "m-Q4_0.gguf": gguf(b"5")}
    fake_hub.forget()
    result = get("m-q4_0")
    assert (result.code, result.out) == (0, f"{snapshot('d' * 40)}\n")
    assert contents(snapshot("d" * 40)) == {"m-Q4_0.gguf": gguf(b"5")}
    assert fake_hub.gets() == ["m-Q4_0.gguf"]


def test_and_all_its_parts(fake_hub: FakeHub, get):
    parts = {f"q[4]/m-Q4-0000{n}-of-00002.gguf": gguf(b"%d" % n) for n in (1, 2)}
    fake_hub.repos[NAME] = repo = Repo({**GGUF, **parts})
    get(NAME, "--include", "*.gguf")
    repo.commit = "d" * 40
    assert get("m-Q4", "--quiet").out == f"{snapshot('d' * 40)}\n"
    assert contents(snapshot("d" * 40)) == parts


def test_a_model_of_ones_own_cannot_be_got(repo: Repo, get, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "llama"}')
    result = get(str(tmp_path / "mine"))
    assert (result.code, result.err) == (
        3,
        f"mlxone: {tmp_path / 'mine'} is not from the Hub (name what to get as ORG/REPO)\n",
    )


def test_verify(repo: Repo, get, fake_hub: FakeHub):
    get(NAME)
    result = get(NAME, "--verify")
    assert result.out == f"{snapshot()}\n"
    assert re.match(r"checking org/model \(\d+ kB\)\n", result.err)
    assert result.err.endswith("all files of org/model are as the Hub has them\n")
    blob = (snapshot() / "tokenizer.json").resolve()
    blob.write_bytes(bytes(1_200))
    assert json.loads(get("model", "--verify", "--json", "--quiet").out)["bytes_fetched"] == 1_200
    blob.write_bytes(bytes(1_200))
    assert get("model", "--verify").err.endswith("1 kB of org/model were missing or damaged, and came anew\n")
    assert blob.read_bytes() == FILES["tokenizer.json"]


def test_quiet(repo: Repo, get):
    assert get(NAME, "--quiet").err == ""


def test_json(repo: Repo, get, fake_hub: FakeHub):
    result = get(NAME, "--json", "--revision", "v2")
    size = sum(len(FILES[name]) for name in NEEDED)
    assert json.loads(result.out) == {
        "repo": NAME,
        "revision": "v2",
        "commit": "a" * 40,
        "folder": str(snapshot()),
        "files": sorted(NEEDED),
        "bytes": size,
        "bytes_fetched": size,
    }
    assert json.loads(get(NAME, "--json").out)["bytes_fetched"] == 0


def test_what_was_there_in_part_is_said(repo: Repo, get):
    repo.always["config.json"] = Fault(status=403)
    assert get(NAME).code == 8
    repo.always.clear()
    assert re.match(r"downloading org/model \(\d+ kB, \d+ kB of it here already\)\n", get(NAME).err)


# Which files.


@pytest.mark.parametrize(
    ("args", "files"),
    [
        (["--include", "*.md"], {"README.md"}),
        (["--include", "*.md", "--include", "onnx/"], {"README.md", "onnx/model.safetensors"}),
        (["--include", "*.json", "--exclude", "tok*", "--exclude", "*/*"],
         {"config.json", "model.safetensors.index.json"}),
        (["--exclude", "*.safetensors"], {name for name in FILES if not name.endswith(".safetensors")}),
    ],
)  # fmt: skip
def test_patterns_choose_among_all_files(repo: Repo, get, args: list[str], files: set[str]):
    assert set(contents(Path(get(NAME, *args).out.strip()))) == files


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--include", "*.gguf"], "--include '*.gguf' matches no file of org/model (it holds README.md, "),
        (["--exclude", "nothing"], "--exclude 'nothing' matches no file of org/model (it holds README.md, "),
        (["--include", "*.md", "--exclude", "READ*"], "--include and --exclude leave no file of org/model\n"),
        (["--revision", " "], "--revision is empty "),
        (["--to", ""], "--to is empty "),
    ],
)
def test_what_cannot_be_honoured(repo: Repo, get, fake_hub: FakeHub, args: list[str], line: str):
    result = get(NAME, *args)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"mlxone: {line}")
    assert result.err.count("\n") == 1
    assert fake_hub.gets() == []


def test_two_revisions_are_one_too_many(repo: Repo, get):
    assert get(f"{NAME}@v1", "--revision", "v2").code == 2
    assert get(f"{NAME}@v2", "--revision", "v2").code == 0


def test_a_gguf_repo_asks_which(fake_hub: FakeHub, get):
    fake_hub.repos[NAME] = Repo(dict(GGUF))
    result = get(NAME)
    assert (result.code, fake_hub.gets()) == (2, [])
    assert result.err == (
        "mlxone: org/model holds GGUF files: m-Q4_0.gguf, m-Q8_0.gguf "
        "(choose with --include, as in '*Q4_0.gguf')\n"
    )
    folder = Path(get(NAME, "--include", "*Q4_0.gguf").out.strip())
    assert contents(folder) == {"m-Q4_0.gguf": GGUF["m-Q4_0.gguf"]}


def test_to_a_folder(repo: Repo, get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert get(NAME, "--to", "here").out == "here\n"
    assert contents(tmp_path / "here") == {name: FILES[name] for name in NEEDED}
    assert not places.hf_cache().exists()
    (tmp_path / "here" / "merges.txt").write_text("mine")
    assert get(NAME, "--to", "here").err == (
        "mlxone: here/merges.txt is there already, with other content "
        "(move it away, or name another folder)\n"
    )


# Offline.


def test_offline_what_is_here_is_the_answer(repo: Repo, get, fake_hub: FakeHub, monkeypatch):
    get(NAME)
    fake_hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = get(NAME)
    assert (result.code, result.out) == (0, f"{snapshot()}\n")
    assert result.err == (
        "HF_HUB_OFFLINE is set: org/model is on this machine, and was not looked for on the Hub\n"
    )
    report = json.loads(get(NAME, "--json", "--quiet").out)
    assert (report["commit"], report["bytes_fetched"], report["files"]) == ("a" * 40, 0, sorted(NEEDED))
    assert fake_hub.log == []


@pytest.mark.parametrize("args", [[], ["--revision", "v2"], ["--include", "*"], ["--to", "x"], ["--verify"]])
def test_offline_what_is_not_here_cannot_be_had(repo: Repo, get, fake_hub: FakeHub, monkeypatch, args):
    if args:
        get(NAME)
        fake_hub.forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = get(NAME, *args)
    assert (result.code, result.out) == (8, "")
    assert result.err == "mlxone: HF_HUB_OFFLINE is set, so org/model cannot be fetched (unset it)\n"
    assert fake_hub.log == []


def test_offline_nothing_is_said_that_is_not_known(repo: Repo, get, monkeypatch):
    get(NAME, "--revision", "v2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    report = json.loads(get(NAME, "--json", "--quiet").out)
    assert (report["revision"], report["commit"]) == (None, "a" * 40)
    report = json.loads(get(NAME, "--json", "--quiet", "--revision", "v2").out)
    assert (report["revision"], report["commit"]) == ("v2", "a" * 40)


@pytest.mark.parametrize(
    ("query", "files"),
    [("m-Q4_0", ["m-Q4_0.gguf"]), (NAME, ["m-Q4_0.gguf", "m-Q8_0.gguf"])],
)
def test_offline_gguf_files_are_an_answer(fake_hub: FakeHub, get, monkeypatch, query: str, files: list[str]):
    fake_hub.repos[NAME] = Repo(dict(GGUF))
    get(NAME, "--include", "*.gguf")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = get(query, "--json", "--quiet")
    assert result.code == 0
    report = json.loads(result.out)
    assert (report["repo"], report["folder"], report["files"]) == (NAME, str(snapshot()), files)
    assert report["bytes"] == sum(len(GGUF[name]) for name in files)


def test_offline_half_a_model_is_none(repo: Repo, get, monkeypatch):
    get(NAME)
    (snapshot() / "model-00001-of-00002.safetensors").unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for query in (NAME, "model"):
        result = get(query)
        assert (result.code, result.out) == (8, "")
        assert result.err == "mlxone: HF_HUB_OFFLINE is set, so org/model cannot be fetched (unset it)\n"


def test_offline_another_repo_of_like_name_is_no_answer(fake_hub: FakeHub, get, monkeypatch):
    for name in ("org/model-2", "org/model-3"):
        fake_hub.repos[name] = Repo(dict(FILES))
    get("org/model-2")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(NAME).code == 8
    monkeypatch.delenv("HF_HUB_OFFLINE")
    get("org/model-3")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get(NAME).code == 8


def test_a_refusal_is_one_line(repo: Repo, get):
    repo.info = refuse(403, "GatedRepo")
    result = get(NAME)
    assert (result.code, result.out, result.err.count("\n")) == (8, "", 1)
    assert result.err.startswith("mlxone: org/model is gated (accept its terms")


# A process of its own, and a terminal.


def test_ctrl_c_says_how_to_go_on(repo: Repo, fake_hub: FakeHub):
    repo.always["tokenizer.json"] = Fault(hold=500)
    command = [sys.executable, "-m", "mlxone", "get", NAME]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        line = child.stderr.readline()
        while not line.startswith("model-00001"):
            line = child.stderr.readline()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (130, "")
    assert err.endswith("stopped; the same command goes on from there\n")
    assert "Traceback" not in err
    repo.always.clear()
    fake_hub.released.set()
    fake_hub.forget()
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert "model-00001-of-00002.safetensors" not in fake_hub.gets()


def test_a_terminal_sees_bars_and_is_left_clean(repo: Repo, fake_hub: FakeHub):
    import pyte

    repo.faults["model-00001-of-00002.safetensors"] = [Fault(hold=3_000)]
    screen = pyte.Screen(100, 24)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
    command = [sys.executable, "-m", "mlxone", "get", NAME]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=theirs) as child:
        os.close(theirs)
        shown = ""
        while "model-00001-of-00002.safetensors" not in shown or "3.0/10.2 kB" not in shown:
            stream.feed(os.read(ours, 4096))
            shown = "\n".join(screen.display)
        assert shown.lstrip().startswith("org/model")  # the whole, on top
        fake_hub.released.set()
        while True:
            try:
                stream.feed(os.read(ours, 4096))
            except OSError:  # the other end is closed
                break
        out, _ = child.communicate(timeout=60)
    os.close(ours)
    assert (child.returncode, out.decode()) == (0, f"{snapshot()}\n")
    assert "".join(screen.display).strip() == ""
