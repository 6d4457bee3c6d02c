"""Downloads that are cut off, by whatever means, and go on; and two at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from mlxone.core.errors import HubError, StorageError, UsageError
from mlxone.hub import partial, places, transfer
from mlxone.hub.download import File, Plan, fetch, plan
from mlxone.hub.layout import Folder
from mlxone.hub.partial import Ranges
from mlxone.hub.snapshots import is_whole
from tests.hub.conftest import nothing_damaged_is_visible
from tests.hub.fake_hub import FakeHub, Fault, Repo
from tests.hub.seen import NAME, Seen, contents, in_cache, leftovers

ROOT = Path(__file__).parents[2]
BIG, OTHER = "model-1.safetensors", "model-2.safetensors"
DATA = bytes(i * i % 251 for i in range(50_000))
FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", BIG: DATA, OTHER: DATA[::-1]}

# `mlxone`'s downloader with pieces of a size for tests; what the child shall do comes as an argument.
CHILD = """
import dataclasses, os, signal, sys
from mlxone.hub import client, partial, transfer
from mlxone.hub.download import fetch, plan, Watch
transfer.SMALLEST_PIECE, partial.NOTE_EVERY = 2_000, 500
client.PATIENCE = dataclasses.replace(client.PATIENCE, read=3600.0)  # silence ends nothing here
limit, how = int(sys.argv[1]), getattr(signal, sys.argv[2])

class Deadly(Watch):
    def begin(self, plan, held):
        self.held = dict(held)
    def file(self, file, state, held):
        self.held[file.name] = held
        if sum(self.held.values()) >= limit:
            os.kill(os.getpid(), how)

print(fetch(plan("org/model"), Deadly()))
"""


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SMALLEST_PIECE", 2_000)
    monkeypatch.setattr(partial, "NOTE_EVERY", 500)


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo(dict(FILES))
    return fake_hub.repos[NAME]


def child(limit: int = 10**9, how: str = "SIGKILL") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(limit), how]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def noted() -> dict[str, Ranges]:
    """What the partial files in the cache say they hold."""
    return {
        path.name.partition(".")[0]: partial._noted(path, len(DATA))
        for path in places.hf_cache().glob(f"models--*/blobs/*{partial.SUFFIX}")
    }


def asked_for(hub: FakeHub, file: str) -> Ranges:
    return Ranges((asked.start, asked.end) for asked in hub.asked if asked.file == file)


def test_a_killed_process_goes_on_from_what_was_there(repo: Repo, fake_hub: FakeHub):
    # Some ranges of both files come whole, of others a part and then nothing.
    for file in (BIG, OTHER):
        repo.faults[file] = [Fault(), Fault(hold=1_000), Fault(), Fault(hold=3_000), Fault(hold=10)]
    process = child(limit=30_000)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    fake_hub.released.set()
    assert not is_whole(plan(NAME).folder)
    nothing_damaged_is_visible(fake_hub)
    before = {file.name: noted().get(file.etag, Ranges()) for file in plan(NAME).files}
    assert sum(held.total for held in before.values()) > 25_000

    fake_hub.forget()
    repo.faults.clear()
    seen = Seen()
    assert contents(fetch(plan(NAME), seen)) == FILES
    for file in (BIG, OTHER):
        if before[file].total:  # else it is whole, or nothing of it had come
            missing = Ranges(before[file].gaps(0, len(DATA)))
            assert list(asked_for(fake_hub, file)) == list(missing)
    assert seen.fetched == seen.total - seen.history[0]
    assert leftovers() == set()


@pytest.mark.parametrize("limit", [1, 20_000, 60_000, 99_000])
def test_killed_again_and_again_it_still_arrives(repo: Repo, limit: int):
    for step in (limit, limit + 20_000, limit + 60_000):
        process = child(limit=step)
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL)
    assert contents(fetch(plan(NAME))) == FILES
    assert leftovers() == set()


def test_death_between_the_name_and_its_notes(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    """The content has its name, the notes of its gathering are still there: the next run sweeps them."""

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(partial, "forget_notes", die)
        with pytest.raises(KeyboardInterrupt):
            fetch(plan(NAME))
    assert leftovers() >= {"mlxone.progress"}
    assert contents(fetch(plan(NAME))) == FILES
    assert leftovers() == set()


def test_what_another_tool_fetched_meanwhile_leaves_no_part_of_ours(repo: Repo):
    (file,) = (file for file in plan(NAME).files if file.name == BIG)
    repo.faults[BIG] = [Fault(), Fault(cut=900)]
    repo.always[BIG] = Fault(cut=0)
    with pytest.raises(HubError):
        fetch(plan(NAME))
    assert "mlxone.incomplete" in leftovers()
    (plan(NAME).folder.parents[1] / "blobs" / file.etag).write_bytes(DATA)
    repo.always.clear()
    assert contents(fetch(plan(NAME))) == FILES
    assert leftovers() == set()


def test_ctrl_c_leaves_what_can_be_gone_on_from(repo: Repo, fake_hub: FakeHub):
    repo.faults[BIG] = [Fault(), Fault(), Fault(hold=1_000)]

    def stop(held: int) -> None:
        if held > 10_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(plan(NAME), Seen(stop))
    fake_hub.released.set()
    assert not is_whole(plan(NAME).folder)
    assert leftovers() <= {"mlxone.incomplete", "mlxone.progress"}
    seen = Seen()
    assert contents(fetch(plan(NAME), seen)) == FILES
    assert seen.history[0] > 0


def test_a_signal_from_the_keyboard_ends_the_process_soon(repo: Repo, fake_hub: FakeHub):
    repo.faults[OTHER] = [Fault(hold=500)]  # a thread that waits for it does not hold the process
    process = child(limit=20_000, how="SIGINT")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert "Thread" not in errors
    fake_hub.released.set()
    assert contents(fetch(plan(NAME))) == FILES


def test_a_note_that_a_dying_process_left_unfinished(repo: Repo):
    repo.always[BIG] = Fault(cut=0)
    with pytest.raises(HubError):
        fetch(plan(NAME))
    for notes in places.hf_cache().glob(f"models--*/blobs/*{partial.NOTES}"):
        notes.write_bytes(notes.read_bytes() + b"0 49")
    repo.always.clear()
    assert contents(fetch(plan(NAME))) == FILES


def test_notes_that_lie_are_found_out(repo: Repo, fake_hub: FakeHub):
    """As after a power cut, when the notes reached the disk and the bytes did not."""
    (file,) = (file for file in plan(NAME).files if file.name == BIG)
    blobs = plan(NAME).folder.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    with (blobs / f"{file.etag}{partial.SUFFIX}").open("wb") as holes:
        holes.truncate(len(DATA))
    (blobs / f"{file.etag}{partial.NOTES}").write_bytes(b"size %d\n0 40000\n" % len(DATA))
    assert contents(fetch(plan(NAME))) == FILES


def test_what_another_tool_left_half_is_neither_used_nor_touched(repo: Repo):
    blobs = plan(NAME).folder.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    for file in plan(NAME).files:
        (blobs / f"{file.etag}.incomplete").write_bytes(b"half")
    assert contents(fetch(plan(NAME))) == FILES
    assert len(list(blobs.glob("*.incomplete"))) == len(FILES)


# Two at once.


def test_two_processes_fetch_each_file_once(repo: Repo, fake_hub: FakeHub):
    both = [child(), child()]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert {Path(out.strip()) for out, _ in outputs} == {plan(NAME).folder}
    assert contents(plan(NAME).folder) == FILES
    for file in (BIG, OTHER):
        assert sum(a.end - a.start for a in fake_hub.asked if a.file == file) == len(DATA)
    assert leftovers() == set()


def test_the_second_goes_on_when_the_first_is_killed(repo: Repo, fake_hub: FakeHub):
    repo.faults[BIG] = [Fault(hold=1_000)]
    first = child(limit=10**9)
    wait_for(lambda: any(asked.file == BIG for asked in fake_hub.asked))
    second = child()
    wait_for(lambda: len(fake_hub.log) and fake_hub.log.count("GET /api/models/org/model") == 2)
    first.kill()
    first.communicate()
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert contents(Path(out.strip())) == FILES


def test_two_threads_of_one_process(repo: Repo, fake_hub: FakeHub):
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch(plan(NAME)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2 and contents(folders[0]) == FILES
    assert sum(a.end - a.start for a in fake_hub.asked if a.file == BIG) == len(DATA)


def test_the_hub_client_waits_for_us(repo: Repo, fake_hub: FakeHub):
    """Its own lock, so that the two never do the same file at once."""
    repo.faults[BIG] = [Fault(hold=1_000)]
    process = child()
    wait_for(lambda: bool(noted()))
    code = (
        "import sys, huggingface_hub as h; "
        f"h.hf_hub_download('{NAME}', '{BIG}', cache_dir=sys.argv[1], endpoint='{fake_hub.url}')"
    )
    command = [sys.executable, "-c", code, str(places.hf_cache())]
    other = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(line.startswith("HEAD") for line in fake_hub.log))
    fake_hub.released.set()
    process.communicate(timeout=120)
    assert (other.wait(120), process.returncode) == (0, 0)
    assert sum(a.end - a.start for a in fake_hub.asked if a.file == BIG) == len(DATA)


def wait_for(condition: Any) -> None:
    """Waits for something that is sure to come, however long this machine takes."""
    tick = threading.Event()
    for _ in range(6_000):
        if condition():
            return
        tick.wait(0.01)
    raise AssertionError("it never came")


# Into a folder of one's own.


def test_a_plain_folder(repo: Repo, tmp_path: Path):
    seen = Seen()
    assert fetch(plan(NAME), seen, to=tmp_path / "there") == tmp_path / "there"
    assert contents(tmp_path / "there") == FILES
    assert not any(path.is_symlink() for path in (tmp_path / "there").rglob("*"))
    assert in_cache() == []
    assert not places.hf_cache().exists()
    assert seen.fetched == seen.total


def test_a_plain_folder_is_gone_on_with_and_refreshed(repo: Repo, fake_hub: FakeHub, tmp_path: Path):
    repo.faults[BIG] = [Fault(), Fault(cut=900)]
    repo.always[BIG] = Fault(cut=0)
    with pytest.raises(HubError):
        fetch(plan(NAME), to=tmp_path)
    assert not {BIG, "config.json"} & set(contents(tmp_path))
    repo.always.clear()
    seen = Seen()
    fetch(plan(NAME), seen, to=tmp_path)
    assert contents(tmp_path) == FILES
    assert 0 < seen.fetched < seen.total
    fake_hub.forget()
    fetch(plan(NAME), to=tmp_path)
    assert fake_hub.gets() == []


def test_two_repos_into_one_folder(repo: Repo, fake_hub: FakeHub, tmp_path: Path):
    """What one has left half is not swept away by the other."""
    fake_hub.repos["org/other"] = Repo({"config2.json": b"{ }", "w.gguf": DATA[:3_000]})
    repo.faults[BIG] = [Fault(), Fault(cut=900)]
    repo.always[BIG] = Fault(cut=0)
    with pytest.raises(HubError):
        fetch(plan(NAME), to=tmp_path)
    fetch(plan("org/other", include=["*"]), to=tmp_path)
    repo.always.clear()
    seen = Seen()
    fetch(plan(NAME), seen, to=tmp_path)
    assert contents(tmp_path) == {**FILES, **fake_hub.repos["org/other"].files}
    assert seen.fetched < seen.total


def test_what_stands_in_the_folder_is_not_written_over(repo: Repo, fake_hub: FakeHub, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_bytes(b"{_}")
    with pytest.raises(UsageError, match="tokenizer.json is there already, with other content"):
        fetch(plan(NAME), to=tmp_path)
    assert contents(tmp_path) == {"tokenizer.json": b"{_}"}
    assert fake_hub.gets() == []


@pytest.mark.parametrize("links", [True, False])
def test_nor_what_appears_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool):
    def refuse(*_: Any) -> None:
        raise OSError(1, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    file = File("config.json", 2, "b" * 40)
    store = Folder(Plan(NAME, "main", "a" * 40, (file,)), tmp_path)
    with store.lock(file):
        store.partial(file).write_bytes(b"{}")
        (tmp_path / "config.json").write_bytes(b"mine")
        with pytest.raises(StorageError, match="config.json appeared"):
            store.place(file)
    assert (tmp_path / "config.json").read_bytes() == b"mine"
    (tmp_path / "config.json").unlink()
    store.place(file)
    assert (tmp_path / "config.json").read_bytes() == b"{}"
    store.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("links", [True, False])
def test_nor_what_appears_meanwhile(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool):
    def refuse(*_: Any) -> None:
        raise OSError(1, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)

    def appear(held: int) -> None:
        (tmp_path / "config.json").write_bytes(b"mine")

    with pytest.raises((StorageError, UsageError), match="config.json"):
        fetch(plan(NAME), Seen(appear), to=tmp_path)
    assert (tmp_path / "config.json").read_bytes() == b"mine"


def test_a_folder_that_is_a_file(repo: Repo, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        fetch(plan(NAME), to=tmp_path / "file")
