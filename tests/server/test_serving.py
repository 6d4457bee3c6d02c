"""Real servers on loopback, over the real HTTP loop, with scripted answers."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
from pathlib import Path
from typing import Any

import openai
import pytest

import mlxone
from mlxone.core.errors import MlxoneError, ShuttingDown, UsageError
from mlxone.core.settings import SERVER_SETTINGS
from mlxone.core.words import Failed
from mlxone.server import listening, serving
from mlxone.server.serving import Serving, create_server
from tests.fakes import FakeContext, Step, spoken
from tests.server.rig import CHAT, events
from tests.service.rig import write_folder

PATH = "/v1/chat/completions"
MESSAGES: Any = CHAT["messages"]


def server(context: FakeContext | None = None, **more: Any) -> Serving:
    return create_server(context or FakeContext(spoken("Hello")), **{"port": 0, "grace": 5.0, **more})


def ask(
    url: str, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    try:
        given = headers | ({"content-type": "application/json"} if body is not None else {})
        connection.request(method, path, None if body is None else json.dumps(body), given)
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


async def ask_async(*args: Any, **more: Any) -> tuple[int, dict[str, str], bytes]:
    return await asyncio.to_thread(ask, *args, **more)


def is_listening(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


# In an asyncio program


def test_a_server_in_an_asyncio_program():
    async def run():
        async with server() as one:
            assert one.url == f"http://127.0.0.1:{one.port}" and one.port > 0
            status, headers, body = await ask_async(one.url, "GET", "/health")
            assert (status, json.loads(body)) == (200, {"status": "ok"})
            assert headers["server"].startswith("mlxone/") and headers["x-request-id"]
            status, headers, body = await ask_async(one.url, "POST", PATH, CHAT | {"stream": True})
            assert headers["content-type"].startswith("text/event-stream")
            assert events(body.decode().encode())[-1] == "[DONE]"
            assert one.counters.total == 2
        return one

    one = asyncio.run(run())
    assert not is_listening(one.url)
    assert one.context.graces == [5.0]


def test_two_servers_in_one_program():
    async def run():
        async with server(FakeContext(model="a")) as first, server(FakeContext(model="b")) as second:
            answers = await asyncio.gather(
                *(ask_async(each.url, "GET", "/v1/models") for each in (first, second))
            )
        return [json.loads(body)["data"][0]["id"] for _, _, body in answers]

    assert asyncio.run(run()) == ["a", "b"]


def test_serving_until_told():
    async def run():
        stop, one = asyncio.Event(), server()
        task = asyncio.create_task(one.serve_forever(stop=stop))
        while not one._http.addresses:
            await asyncio.sleep(0)
        assert (await ask_async(one.url, "GET", "/version"))[0] == 200
        stop.set()
        await task
        return one.url

    assert not is_listening(asyncio.run(run()))


# On a thread of its own


def test_a_server_on_a_thread_of_its_own():
    with server() as one:
        status, _, body = ask(one.url, "POST", PATH, CHAT)
        assert status == 200 and json.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert not is_listening(one.url)


def test_what_fails_at_the_start_is_raised_where_it_was_asked_for():
    context = FakeContext()
    context.start_fails = UsageError("no such model")
    with pytest.raises(UsageError, match="no such model"), server(context):
        raise AssertionError("it never starts")
    assert context.graces == [0.0]


def test_what_fails_at_the_end_is_as_well():
    class Stuck(FakeContext):
        async def close(self, grace: float = 0.0) -> None:
            raise MlxoneError("will not end")

    with pytest.raises(MlxoneError, match="will not end"), server(Stuck()):
        pass


# The official client


def test_the_official_client_reads_what_we_say():
    with server(FakeContext(spoken("Hello"))) as one:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0)
        whole = client.chat.completions.create(model="any", messages=MESSAGES)
        assert whole.choices[0].message.content == "Hello" and whole.usage.completion_tokens == 5
        stream = client.chat.completions.create(model="any", messages=MESSAGES, stream=True)
        chunks: list[Any] = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
        assert [model.id for model in client.models.list()] == ["org/fake"]
        assert client.models.retrieve("org/fake").id == "org/fake"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("org/other")
        assert caught.value.code == "model_not_found"
        client.close()


def test_the_official_client_hears_of_a_failure_in_the_middle():
    failing: list[Step] = [*spoken("Hello")[:3], (0, Failed(ShuttingDown("the server is shutting down")))]
    with server(FakeContext(failing)) as one:
        client = openai.OpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(model="any", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        client.close()


# Starting


def test_who_comes_before_the_model_is_ready_waits():
    async def run():
        context = FakeContext(spoken("Hello"))
        context.starting = asyncio.Event()
        one = server(context)
        task = asyncio.create_task(one.start())
        while not one._http.addresses:
            await asyncio.sleep(0)
        status, headers, body = await ask_async(one.url, "GET", "/health")
        assert (status, json.loads(body)["error"]["code"]) == (503, "starting")
        assert headers["retry-after"] == "1"
        early = asyncio.create_task(ask_async(one.url, "POST", PATH, CHAT))
        while not one.counters.in_flight:
            await asyncio.sleep(0.001)
        context.starting.set()
        await task
        status = (await early)[0]
        await one.stop()
        return status

    assert asyncio.run(run()) == 200


def test_who_waits_for_a_model_that_never_comes_is_told():
    async def run():
        context = FakeContext()
        context.starting, context.start_fails = asyncio.Event(), UsageError("no such model")
        one = server(context)
        task = asyncio.create_task(one.start())
        while not one._http.addresses:
            await asyncio.sleep(0)
        early = asyncio.create_task(ask_async(one.url, "POST", PATH, CHAT))
        while not one.counters.in_flight:
            await asyncio.sleep(0.001)
        context.starting.set()
        with pytest.raises(UsageError, match="no such model"):
            await task
        return await early, one.counters.requests

    (status, _, body), requests = asyncio.run(run())
    assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
    assert requests == {("/chat/completions", 503): 1}


class Beginning(FakeContext):
    """Waits in its start until `starting` is set, and says that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.starting = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        self.begun.set()
        await super().start()


def test_stopped_while_it_starts_it_does_not_serve():
    async def run():
        context = Beginning()
        one = server(context)
        task = asyncio.create_task(one.start())
        await context.begun.wait()
        await one.stop()
        context.starting.set()
        with pytest.raises(ShuttingDown):
            await task
        return one, context.graces

    one, graces = asyncio.run(run())
    assert one._app.shared.phase == "draining" and graces == [5.0]


def test_stopped_while_it_begins_to_listen_it_does_not_either(monkeypatch):
    async def run():
        context = Beginning()
        context.starting.set()
        looking, go_on = asyncio.Event(), asyncio.Event()

        async def slow(host: str, port: int) -> list[socket.socket]:
            looking.set()
            await go_on.wait()
            return await real(host, port)

        real = listening.tcp_sockets
        monkeypatch.setattr(listening, "tcp_sockets", slow)
        one = server(context)
        task = asyncio.create_task(one.start())
        await looking.wait()
        await one.stop()
        go_on.set()
        with pytest.raises(ShuttingDown):
            await task
        assert not context.begun.is_set()
        return one.url, context.graces

    url, graces = asyncio.run(run())
    assert not is_listening(url) and graces == [5.0]


@pytest.mark.parametrize("early", [True, False])
def test_told_to_stop_it_does_not_wait_for_the_models(early: bool):
    async def run():
        context, stop = FakeContext(), asyncio.Event()
        context.starting = asyncio.Event()  # which never comes
        one = server(context)
        if early:
            stop.set()
        task = asyncio.create_task(one.serve_forever(stop=stop))
        while not (early or one._http.addresses):
            await asyncio.sleep(0)
        stop.set()
        async with asyncio.timeout(20):
            await task
        return context.graces, one._http._listeners

    assert asyncio.run(run()) == ([0.0], [])


def test_a_start_that_fails_ends_serving():
    async def run():
        context = FakeContext()
        context.start_fails = UsageError("no such model")
        async with asyncio.timeout(20):
            with pytest.raises(UsageError, match="no such model"):
                await server(context).serve_forever(stop=asyncio.Event())

    asyncio.run(run())


def test_a_port_in_use_is_one_line_and_no_model_is_loaded():
    async def run():
        async with server() as first:
            context = FakeContext()
            with pytest.raises(UsageError, match=f"127.0.0.1:{first.port}.*in use") as caught:
                await server(context, port=first.port).start()
            assert "\n" not in str(caught.value)
            assert (await ask_async(first.url, "GET", "/health"))[0] == 200
            return context

    assert asyncio.run(run()).graces == []


def test_a_server_starts_once():
    async def run():
        one = server()
        with pytest.raises(UsageError, match="before it is started"):
            _ = one.url
        await one.stop()  # nothing to stop
        async with one:
            with pytest.raises(UsageError, match="only once"):
                await one.start()
        await one.stop()
        with pytest.raises(UsageError, match="only once"):
            await one.start()
        return one.context.graces  # type: ignore[attr-defined]

    assert asyncio.run(run()) == [5.0]


@pytest.mark.parametrize("keys", [[], ["secret"]])
def test_a_server_for_the_network_without_a_key_is_warned_of(keys: list[str], caplog):
    with caplog.at_level(logging.WARNING, "mlxone"), server(host="0.0.0.0", api_keys=keys) as one:
        assert one.url.startswith("http://127.0.0.1:")  # how it can be reached from here
        assert ask(one.url, "GET", "/health", host="any.example")[0] == 200
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == (not keys)
    assert not said or all(name in said[0] for name in ("0.0.0.0", "--api-key", "--allowed-hosts"))


def test_the_name_must_be_ours_on_loopback():
    with server(allowed_hosts=["models.example"]) as one:
        for host, status in (("evil.example", 403), ("models.example", 200), ("localhost:1", 200)):
            assert ask(one.url, "GET", "/v1/models", host=host)[0] == status


def test_loopback_is_known_by_its_addresses(monkeypatch):
    """A machine's own name often means 127.0.1.1: nobody else reaches it, but a browser's page would."""
    real = socket.getaddrinfo
    known = {"my-machine": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real(known.get(host, host), *a, **k))
    with server(host="my-machine") as one:
        for host, status in (("my-machine:8090", 200), ("evil.example", 403), ("localhost", 200)):
            assert ask(one.url, "GET", "/v1/models", host=host)[0] == status


def test_elsewhere_the_name_is_checked_where_names_are_given():
    for allowed, status in (([], 200), (["models.example"], 403)):
        with server(host="0.0.0.0", api_keys=["k"], allowed_hosts=allowed) as one:
            assert ask(one.url, "GET", "/health", host="evil.example")[0] == status
            assert ask(one.url, "GET", "/health", host="models.example")[0] == 200


def test_keys_over_the_wire():
    with server(api_keys=["first", "second"]) as one:
        assert ask(one.url, "GET", "/v1/models")[0] == 401
        assert ask(one.url, "GET", "/v1/models", authorization="Bearer second")[0] == 200
        assert ask(one.url, "GET", "/health")[0] == 200


def test_a_socket_file(tmp_path: Path, caplog):
    path = str(tmp_path / "s")

    class Unix(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(path)

    with server(uds=path) as one:
        assert (one.url, one.port) == (f"unix:{path}", None)
        connection = Unix("any.example")  # no browser gets here, so any name will do
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200
        connection.close()
    assert not Path(path).exists()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


# Ending


class Ending(FakeContext):
    """Lets its answers go on once it is told to close, as far as `last` says."""

    def __init__(self, *last: Step) -> None:
        self.told = asyncio.Event()
        super().__init__([*spoken("Hello")[:3], self.told, *last])

    async def close(self, grace: float = 0.0) -> None:
        await super().close(grace)
        self.told.set()


@pytest.mark.parametrize("fails", [False, True])
def test_a_running_stream_ends_properly(fails: bool):
    async def run():
        failed: list[Step] = [(0, Failed(ShuttingDown("the server is shutting down")))]
        context = Ending(*(failed if fails else spoken("Hello")[3:]))
        one = server(context)
        await one.start()
        running = asyncio.create_task(ask_async(one.url, "POST", PATH, CHAT | {"stream": True}))
        while not context.gave:
            await asyncio.sleep(0.001)
        await one.stop()
        return await running

    status, _, body = asyncio.run(run())
    assert status == 200
    last = events(body)[-1]
    assert json.loads(last)["error"]["code"] == "shutting_down" if fails else last == "[DONE]"


def test_a_client_that_hangs_up_cancels_its_answer():
    async def run():
        context = FakeContext([*spoken("Hello")[:3], asyncio.Event()])
        async with server(context) as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            body = json.dumps(CHAT | {"stream": True}).encode()
            head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await reader.readuntil(b'"content":"e"')
            writer.close()
            async with asyncio.timeout(20):
                while not context.gave[0].closed or one.counters.in_flight:
                    await asyncio.sleep(0.001)
            return one.counters.requests

    assert asyncio.run(run()) == {("/chat/completions", 499): 1}


def test_an_answer_cut_off_by_the_end_is_written_down_as_it_was_sent(caplog):
    class Waiting(FakeContext):
        async def answer(self, asked: Any) -> Any:
            self.asked.append(asked)
            await asyncio.Event().wait()

    async def run():
        context = Waiting()
        one = server(context, grace=0.0)
        await one.start()
        running = asyncio.create_task(ask_async(one.url, "POST", PATH, CHAT))
        while not context.asked:
            await asyncio.sleep(0.001)
        await one._http.close(0.0)
        await one.stop()
        return (await running)[0], one.counters

    with caplog.at_level(logging.INFO, "mlxone"):
        status, counters = asyncio.run(run())
    assert status == 503 and counters.requests == {("/chat/completions", 503): 1}
    (fields,) = [record.fields for record in caplog.records if hasattr(record, "fields")]
    assert (fields["status"], fields["error"]) == (503, "shutting_down")


def test_what_is_no_request_is_counted_and_has_an_id():
    async def run():
        async with server() as one:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
            writer.write(b"nonsense\r\n\r\n")
            said = await reader.read()
            writer.close()
            return said, one.counters.requests

    said, requests = asyncio.run(run())
    head, _, body = said.decode().partition("\r\n\r\n")
    error = json.loads(body)["error"]
    assert error["code"] == "bad_request" and f"x-request-id: {error['request_id']}" in head
    assert requests == {("(refused)", 400): 1}


# What it is made from


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"port": 65_536}, "port"),
        ({"port": -1}, "port"),
        ({"port": "80"}, "port"),
        ({"port": True}, "port"),
        ({"host": None}, "host"),
        ({"uds": 3}, "uds"),
        ({"limits": {"connections": 3}}, "limits"),
        ({"grace": "10"}, "grace"),
        ({"grace": None}, "grace"),
        ({"api_keys": None}, "api_keys"),
        ({"api_keys": [5]}, "api_keys"),
        ({"allowed_origins": [b"*"]}, "allowed_origins"),
        ({"allowed_hosts": 5}, "allowed_hosts"),
        ({"grace": -1.0}, "grace"),
        ({"grace": float("nan")}, "grace"),
        ({"api_keys": "secret"}, "api_keys"),
        ({"api_keys": [""]}, "API key"),
        ({"allowed_origins": "*"}, "allowed_origins"),
        ({"allowed_origins": ["chat.example"]}, "chat.example"),
        ({"allowed_hosts": ["http://a"]}, "http://a"),
    ],
)
def test_what_makes_no_server(more: dict[str, Any], names: str):
    with pytest.raises(UsageError, match=names):
        create_server(FakeContext(), **more)


def test_the_defaults_are_those_of_the_settings():
    table = {setting.name: setting.default for setting in SERVER_SETTINGS}
    ours = {"host": serving.HOST, "port": serving.PORT, "grace": serving.GRACE}
    assert ours == {name: table[name] for name in ours}


def test_the_library_has_it():
    assert mlxone.create_server is create_server
    with pytest.raises(TypeError, match="frobnicate"):
        mlxone.load_context("starter", frobnicate=1)


def test_a_model_from_its_folder_to_an_answer(tmp_path: Path):
    folder = write_folder(tmp_path / "tiny-model")
    context = mlxone.load_context(folder, max_tokens=3)
    with create_server(context, port=0) as one:
        (model,) = json.loads(ask(one.url, "GET", "/v1/models")[2])["data"]
        assert model["loaded"] and str(tmp_path) not in json.dumps(model)
        status, _, body = ask(one.url, "POST", PATH, CHAT | {"temperature": 0})
        assert status == 200 and 1 <= json.loads(body)["usage"]["completion_tokens"] <= 3
        assert json.loads(body)["model"] == model["id"]
        status, _, body = ask(one.url, "POST", PATH, CHAT | {"stream": True, "temperature": 0})
        assert status == 200 and events(body)[-1] == "[DONE]"
        assert ask(one.url, "POST", "/models/unload", {"model": model["id"]})[0] == 403
    with pytest.raises(MlxoneError):
        mlxone.load_context(tmp_path / "nothing")
