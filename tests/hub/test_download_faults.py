"""What a network, a server or a disk can do to a download. In the end stands the right file or our error."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlxone.core.errors import HubError, MlxoneError, ModelNotFound, StorageError
from mlxone.hub import client, download, partial, places, transfer
from mlxone.hub.download import fetch, plan
from mlxone.hub.snapshots import is_whole
from tests.hub.conftest import nothing_damaged_is_visible
from tests.hub.fake_hub import FakeHub, Fault, Repo, serving
from tests.hub.seen import NAME, Seen, contents, in_cache, leftovers

BIG = "model.safetensors"
DATA = bytes(i * i % 251 for i in range(10_000))
FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", BIG: DATA}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SMALLEST_PIECE", 1_000)
    monkeypatch.setattr(partial, "NOTE_EVERY", 300)


@pytest.fixture
def repo(fake_hub: FakeHub) -> Repo:
    fake_hub.repos[NAME] = Repo(dict(FILES))
    return fake_hub.repos[NAME]


def all_there(folder: Path) -> bool:
    return contents(folder) == FILES and leftovers() == set()


def asked_bytes(hub: FakeHub) -> int:
    return sum(asked.end - asked.start for asked in hub.asked if asked.file == BIG)


# The road as it should be.


def test_a_large_file_comes_in_ranges_that_make_it_up(repo: Repo, fake_hub: FakeHub):
    assert all_there(fetch(plan(NAME)))
    ranges = sorted((asked.start, asked.end) for asked in fake_hub.asked if asked.file == BIG)
    assert ranges == [(start, start + 1_250) for start in range(0, 10_000, 1_250)]
    assert all(asked.ranged for asked in fake_hub.asked if asked.file == BIG)


def test_the_token_goes_to_the_hub_and_not_to_its_storage(
    repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(plan(NAME))
    assert set(fake_hub.tokens) == {"Bearer hf_secret"}
    assert {asked.authorization for asked in fake_hub.asked if asked.file == BIG} == {None}


def test_one_host_for_all(repo: Repo, fake_hub: FakeHub):
    fake_hub.two_hosts = False
    assert all_there(fetch(plan(NAME)))


def test_the_etag_of_a_storage_says_nothing(repo: Repo, fake_hub: FakeHub):
    fake_hub.linked = False
    assert all_there(fetch(plan(NAME)))


def test_config_is_asked_for_when_all_else_is_there(repo: Repo, fake_hub: FakeHub):
    fetch(plan(NAME))
    assert fake_hub.gets()[-1] == "config.json"


# Passing trouble: nobody has to know.

PASSING = {
    "status 500": Fault(status=500),
    "status 429": Fault(status=429, headers=(("Retry-After", "2"),)),
    "a bare 503": Fault(status=503),
    "a line that goes dead": Fault(cut=700),
    "a dead line at once": Fault(cut=0),
    "a reset": Fault(cut=700, reset=True),
    "an end that looks proper": Fault(cut=700, unmeasured=True),
    "no length": Fault(unmeasured=True),
    "the whole file for a range": Fault(ignore_range=True),
    "half of the whole file for a range": Fault(ignore_range=True, cut=5_000),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("file", [BIG, "config.json"])
@pytest.mark.parametrize("times", [1, 3])
def test_passing_trouble(repo: Repo, fake_hub: FakeHub, file: str, fault: Fault, times: int):
    if file != BIG and fault.cut is not None:
        fault = replace(fault, cut=min(fault.cut, 1))
    repo.faults[file] = [fault] * times
    assert all_there(fetch(plan(NAME)))
    assert len(repo.faults[file]) < times


def test_what_came_before_the_line_went_dead_is_kept(repo: Repo, fake_hub: FakeHub):
    repo.faults[BIG] = [Fault(cut=700)] * 4
    seen = Seen()
    fetch(plan(NAME), seen)
    assert sum(asked.sent for asked in fake_hub.asked if asked.file == BIG) == len(DATA)
    assert seen.fetched == sum(map(len, FILES.values()))


def test_a_line_that_dies_again_and_again_but_always_brings_something(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(client, "PATIENCE", replace(client.PATIENCE, slow_bytes=100, attempts=3))
    repo.always[BIG] = Fault(cut=110)
    assert all_there(fetch(plan(NAME)))


def test_a_server_that_ignores_ranges_sends_the_file_once(repo: Repo, fake_hub: FakeHub):
    repo.always[BIG] = Fault(ignore_range=True)
    assert all_there(fetch(plan(NAME)))
    assert not any(asked.ranged for asked in fake_hub.asked)


def test_how_long_is_waited(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    patience = replace(client.PATIENCE, pause=lambda stop, seconds: waits.append(seconds))
    monkeypatch.setattr(client, "PATIENCE", patience)
    repo.faults["config.json"] = [
        Fault(status=503),
        Fault(status=500),
        Fault(status=429, headers=(("Retry-After", "17"),)),
        Fault(status=502),
        Fault(status=429, headers=(("Retry-After", "Wed, 21 Oct 2035 07:28:00 GMT"),)),
    ]
    fetch(plan(NAME))
    assert waits == [1, 2, 17, 8, 16]


def test_a_server_that_asks_for_too_long_a_wait(repo: Repo):
    repo.faults["config.json"] = [Fault(status=429, headers=(("Retry-After", "3600"),))]
    with pytest.raises(HubError, match="too many requests"):
        fetch(plan(NAME))


# Lasting trouble: one line, and what came is kept.

LASTING: dict[str, tuple[Fault, str]] = {
    "a line that dies without bringing anything": (Fault(cut=0), "cannot be reached|incomplete"),
    "an end that looks proper": (Fault(cut=0, unmeasured=True), f"{BIG} of {NAME} arrived incomplete"),
    "another etag": (Fault(etag="f" * 64), f"{BIG} of {NAME} changed on the Hub"),
    "one wrong byte": (Fault(spoil=3), f"{BIG} of {NAME} arrived damaged .its hash differs."),
    "another range": (Fault(shift=1), "arrived damaged .bytes .* asked for, bytes .* sent."),
    "a longer body": (Fault(surplus=b"x", unmeasured=True), "arrived damaged"),
    "a wrong byte, ranges ignored": (Fault(spoil=3, ignore_range=True), "its hash differs"),
    "a longer file": (Fault(surplus=b"x", ignore_range=True), "10001 bytes, not 10000"),
    "a longer file without its length": (
        Fault(surplus=b"x", ignore_range=True, unmeasured=True), "more bytes than it has"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "reason"), LASTING.values(), ids=LASTING)
@pytest.mark.parametrize("two_hosts", [True, False])
def test_lasting_trouble(repo: Repo, fake_hub: FakeHub, fault: Fault, reason: str, two_hosts: bool):
    fake_hub.two_hosts = two_hosts
    repo.always[BIG] = fault
    with pytest.raises(HubError, match=reason) as e:
        fetch(plan(NAME))
    assert "\n" not in str(e.value)
    assert not {path.name for path in in_cache()} & {BIG, "config.json"}
    repo.always.clear()
    assert all_there(fetch(plan(NAME)))


@pytest.mark.parametrize("file", [BIG, "config.json"])
def test_what_is_damaged_is_fetched_once_more(repo: Repo, fake_hub: FakeHub, file: str):
    repo.faults[file] = [Fault(spoil=1)]
    assert all_there(fetch(plan(NAME)))
    repo.commit, repo.files["config.json"] = "d" * 40, b"{   }"
    repo.always["config.json"] = Fault(spoil=1)
    fake_hub.forget()
    with pytest.raises(HubError, match="arrived damaged"):
        fetch(plan(NAME))
    assert len(fake_hub.gets()) == 2
    assert leftovers() == set()  # nobody would go on from that


def test_a_right_sized_body_of_other_bytes(repo: Repo):
    repo.sent[BIG] = bytes(len(DATA))
    with pytest.raises(HubError, match="arrived damaged"):
        fetch(plan(NAME))
    assert BIG not in {path.name for path in in_cache()}


@pytest.mark.parametrize("length", [len(DATA) - 1, len(DATA) + 1])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_of_another_size(repo: Repo, length: int, ranges: bool):
    repo.sent[BIG] = (DATA * 2)[:length]
    repo.always[BIG] = Fault(ignore_range=not ranges)
    with pytest.raises(HubError, match="arrived damaged"):
        fetch(plan(NAME))


def test_a_slow_drip_ends(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    # Whenever the clock is looked at, more than a minute has gone; each answer brings a few bytes only.
    clock = itertools.count(0, 61)
    patience = replace(client.PATIENCE, now=lambda: float(next(clock)), attempts=2)
    monkeypatch.setattr(client, "PATIENCE", patience)
    repo.always[BIG] = Fault(hold=10)
    with pytest.raises(HubError, match=f"{BIG} of {NAME} arrives too slowly"):
        fetch(plan(NAME))
    repo.always.clear()
    monkeypatch.setattr(client, "PATIENCE", replace(patience, now=lambda: 0.0))
    assert all_there(fetch(plan(NAME)))


def test_silence_ends(repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "PATIENCE", replace(client.PATIENCE, read=0.05, attempts=2))
    repo.always[BIG] = Fault(hold=500)
    with pytest.raises(HubError, match="cannot be reached"):
        fetch(plan(NAME))
    fake_hub.released.set()


def test_one_refusal_ends_all(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "GRACE", 0.05)
    repo.always["tokenizer.json"] = Fault(status=403, headers=(("X-Error-Code", "GatedRepo"),))
    repo.faults[BIG] = [Fault(hold=500)]  # and this one would never end
    with pytest.raises(HubError, match="org/model is gated"):
        fetch(plan(NAME))


def test_and_what_was_still_to_ask_of_the_same_file(
    repo: Repo, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(transfer, "SMALLEST_PIECE", 5)
    monkeypatch.setattr(transfer, "LARGEST_PIECE", 5)
    repo.faults[BIG] = [Fault(status=403)]
    with pytest.raises(HubError):
        fetch(plan(NAME))
    assert len(fake_hub.asked) < len(DATA) // 5 // 2


# The disk.


def full_after(monkeypatch: pytest.MonkeyPatch, room: int, error: int = errno.ENOSPC) -> None:
    """A disk that takes so many bytes, and of the last write only what fits."""
    pwrite, guard = os.pwrite, threading.Lock()
    left = [room]

    def limited(fd: int, data: Any, offset: int) -> int:
        with guard:
            if left[0] <= 0:
                raise OSError(error, os.strerror(error))
            written = pwrite(fd, data[: left[0]], offset)
            left[0] -= written
            return written

    monkeypatch.setattr(os, "pwrite", limited)


@pytest.mark.parametrize("room", [0, 1, 3_333, 9_999])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up_meanwhile(repo: Repo, fake_hub: FakeHub, room: int, error: int):
    with pytest.MonkeyPatch.context() as patch:
        full_after(patch, room, error)
        with pytest.raises(StorageError, match=os.strerror(error)) as e:
            fetch(plan(NAME))
    assert str(places.hf_cache()) in e.value.message
    fake_hub.forget()
    assert all_there(fetch(plan(NAME)))
    # The room was used for something: it need not be fetched again.
    assert asked_bytes(fake_hub) + room >= len(DATA) - len(FILES["tokenizer.json"])
    assert asked_bytes(fake_hub) <= len(DATA) - max(0, room - 3)


def test_notes_that_cannot_be_written(repo: Repo, monkeypatch: pytest.MonkeyPatch):
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if data[:1].isdigit():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match="No space left"):
        fetch(plan(NAME))


# Any sequence of all of it.

FAULTS = st.builds(
    Fault,
    status=st.sampled_from([None] * 6 + [500, 503, 429, 404, 403]),
    cut=st.none() | st.integers(0, 2_000),
    reset=st.booleans(),
    unmeasured=st.booleans(),
    spoil=st.none() | st.none() | st.integers(0, 5_000),
    surplus=st.sampled_from([b"", b"", b"", b"more"]),
    etag=st.sampled_from([None] * 6 + ["e" * 64]),
    ignore_range=st.booleans(),
    shift=st.sampled_from([0, 0, 0, 0, 1, -1]),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    big=st.lists(FAULTS, max_size=12),
    small=st.lists(FAULTS, max_size=3),
    room=st.none() | st.integers(0, 12_000),
    two_hosts=st.booleans(),
)
@example(big=[Fault(ignore_range=True, cut=900)] * 9, small=[], room=None, two_hosts=True)
def test_in_the_end_stands_the_right_snapshot_or_our_error(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    fake_hub: FakeHub,
    big: list[Fault],
    small: list[Fault],
    room: int | None,
    two_hosts: bool,
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    with serving(FakeHub(two_hosts=two_hosts)) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.repos[NAME] = Repo(dict(FILES), faults={BIG: list(big), "config.json": list(small)})
        if room is not None:
            full_after(patch, room)
        try:
            assert all_there(fetch(plan(NAME)))
        except MlxoneError as e:
            assert "\n" not in str(e)
            assert isinstance(e, (HubError, StorageError, ModelNotFound))
            assert not is_whole(plan(NAME).folder)
        nothing_damaged_is_visible(hub)
        patch.undo()
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.repos[NAME].faults.clear()
        assert all_there(fetch(plan(NAME)))
