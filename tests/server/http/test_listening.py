"""Addresses, paths and how many may come: over real sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import stat
from pathlib import Path

import pytest

from mlxone.core.errors import UsageError
from mlxone.server import listening
from tests.server.http.rig import GET, Client, Clock, Desk, read_answers, run


async def ask(address: str, data: bytes = GET, *, end: bool = True) -> bytes:
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(data)
    if end:
        writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()


def test_this_machine_and_a_free_port_by_default():
    async def scenario(server, desk: Desk, clock: Clock):
        await server.listen()
        (address,) = server.addresses
        assert address.startswith("http://127.0.0.1:") and not address.endswith(":0")
        (answer,) = read_answers(await ask(address))
        assert answer.json == {"ok": True} and desk.asked[0].peer == "127.0.0.1"

    run(scenario)


def test_several_places_at_once(tmp_path: Path):
    async def scenario(server, desk: Desk, clock: Clock):
        bound = socket.create_server(("127.0.0.1", 0))
        await server.listen(host="localhost")
        assert len({a.rpartition(":")[2] for a in server.addresses}) == 1  # one port for all of them
        await server.listen(uds=str(tmp_path / "a.sock"))
        await server.listen(sock=bound)
        assert len(set(server.addresses)) == len(server.addresses) >= 3
        for address in server.addresses:
            assert read_answers(await ask(address))[0].status == 200
        await server.close(1.0)
        for address in server.addresses:
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                await ask(address)

    run(scenario)


def test_a_port_that_is_taken_is_named():
    async def scenario(server, desk: Desk, clock: Clock):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}: "):
                await server.listen(host="127.0.0.1", port=port)

    run(scenario)


def test_a_host_that_is_none():
    async def scenario(server, desk: Desk, clock: Clock):
        with pytest.raises(UsageError, match="no address for the host '300.1.1.1.'"):
            await server.listen(host="300.1.1.1.", port=0)

    run(scenario)


def test_a_path_is_the_owners_and_goes_with_the_server(tmp_path: Path):
    async def scenario(server, desk: Desk, clock: Clock):
        path = tmp_path / "s"
        await server.listen(uds=str(path))
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
        assert server.addresses == [f"unix:{path}"]
        assert read_answers(await ask(server.addresses[0]))[0].status == 200
        assert desk.asked[0].peer == "unix"
        await server.close(0.0)
        assert not path.exists()

    run(scenario)


def test_a_path_left_behind_is_taken_over(tmp_path: Path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def scenario(server, desk: Desk, clock: Clock):
        await server.listen(uds=str(path))
        assert read_answers(await ask(f"unix:{path}"))[0].status == 200

    run(scenario)


def test_a_path_where_somebody_answers_is_not(tmp_path: Path):
    path = tmp_path / "s"

    async def scenario(server, desk: Desk, clock: Clock):
        with socket.socket(socket.AF_UNIX) as alive:
            alive.bind(str(path))
            alive.listen()
            with pytest.raises(UsageError, match="another process listens on"):
                await server.listen(uds=str(path))
            assert path.exists()

    run(scenario)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str):
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")

    async def scenario(server, desk: Desk, clock: Clock):
        with pytest.raises(UsageError, match="is no socket"):
            await server.listen(uds=str(path))
        assert os.path.lexists(path)

    run(scenario)


@pytest.mark.parametrize("path", ["missing/s", "x" * 200])
def test_a_path_that_cannot_be(tmp_path: Path, path: str):
    async def scenario(server, desk: Desk, clock: Clock):
        with pytest.raises(UsageError, match="cannot listen on"):
            await server.listen(uds=str(tmp_path / path))

    run(scenario)


def test_a_path_that_became_anothers_is_not_taken_away(tmp_path: Path):
    path = tmp_path / "s"

    async def scenario(server, desk: Desk, clock: Clock):
        await server.listen(uds=str(path))
        path.unlink()
        path.write_text("another's")
        await server.close(0.0)
        assert path.read_text() == "another's"

    run(scenario)


def test_beyond_the_limit_a_connection_is_told_so_and_closed(tmp_path: Path):
    async def scenario(server, desk: Desk, clock: Clock):
        await server.listen()
        (address,) = server.addresses
        host, _, port = address.removeprefix("http://").rpartition(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        for reader, writer in held:
            writer.write(GET)
            await reader.readuntil(b"true}")
        (answer,) = read_answers(await ask(address, end=False))
        assert answer.status == 503 and answer.json["error"]["code"] == "too_many_connections"
        assert answer.headers["retry-after"] == "1"
        assert answer.json["error"]["request_id"] == answer.headers["x-request-id"] != ""
        assert desk.refused == [503]
        assert answer.headers["connection"] == "close"
        assert len(desk.asked) == 3
        held[0][1].close()
        while server.open_connections >= 3:
            await asyncio.sleep(0.001)
        assert read_answers(await ask(address))[0].status == 200
        for _, writer in held:
            writer.close()

    run(scenario, connections=3)


def test_refusals_are_limited_too_and_take_nobodys_place():
    async def scenario(server, desk: Desk, clock: Clock):
        served, told, cut = Client(server), Client(server), Client(server)
        assert [told.answers()[0].status, cut.sent, cut.transport.aborted] == [503, b"", True]
        await served.send(GET)
        await served.reset()
        other = Client(server)  # while the second one is still being told
        await other.send(GET)
        assert other.answers()[0].status == 200 and server.open_connections == 2

    run(scenario, connections=1)


def test_a_413_survives_a_client_that_sends_all_of_it_first():
    """The rest is read and thrown away: were the socket just closed, a reset would overtake the answer."""

    async def scenario(server, desk: Desk, clock: Clock):
        await server.listen()
        size = 3_000_000

        def old_school() -> bytes:
            host, _, port = server.addresses[0].removeprefix("http://").rpartition(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
                client.sendall(b"x" * size)
                return client.makefile("rb").read()

        (answer,) = read_answers(await asyncio.to_thread(old_school), ("POST",))
        assert answer.status == 413

    run(scenario, body_bytes=1_000_000)


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "becomes"),
    [
        (256, 10_000, 4_256, 4_256),
        (256, 1_000, 4_256, 1_000),
        (256, resource.RLIM_INFINITY, 4_256, 4_256),
        (5_000, 10_000, 4_256, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4_256, None),
        (1_000, 1_000, 4_256, None),
    ],
)
def test_open_files_are_asked_for(soft: int, hard: int, wanted: int, becomes: int | None, monkeypatch):
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    listening.allow_open_files(wanted)
    assert asked == ([] if becomes is None else [(becomes, hard)])


def test_where_they_are_not_given_it_listens_all_the_same(monkeypatch):
    def refuse(which: int, limits: tuple[int, int]) -> None:
        tried.append(limits[0])
        raise ValueError("not allowed to raise the limit")

    tried: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 10_000))
    monkeypatch.setattr(resource, "setrlimit", refuse)

    async def scenario(server, desk: Desk, clock: Clock):
        await server.listen()
        assert read_answers(await ask(server.addresses[0]))[0].status == 200

    run(scenario, connections=3_000)
    assert tried and tried[0] >= 6_000
