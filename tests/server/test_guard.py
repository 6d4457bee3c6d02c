from __future__ import annotations

import hmac
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import UsageError
from mlxone.server.errors import Forbidden, Unauthorized
from mlxone.server.guard import ANY, Guard, checked_host, checked_key, is_loopback
from mlxone.server.messages import Request
from tests.server.rig import request

HERE = "127.0.0.1:8090"


def asked(headers: Mapping[str, str]) -> Request:
    return request("POST", "/v1/chat/completions", headers=headers)


# The Host header


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "localhost:8090",
            "LOCALHOST:1",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:65535",
            "127.9.8.7",
        ),
        *("[::1]", "[::1]:8090", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]:80"),
    ],
)
def test_a_name_of_this_machine_is_ours(host: str):
    Guard(checks_host=True).admit(asked({"host": host}))


@pytest.mark.parametrize(
    "host",
    [
        *(
            "evil.example",
            "evil.example:8090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil-localhost",
        ),
        *(
            "0.0.0.0:8090",
            "[::]:8090",
            "192.168.1.5:8090",
            "8.8.8.8",
            "[2001:db8::1]:8090",
            "128.0.0.1",
            "127.1",
        ),
        *(
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost/evil",
            "localhost:8090#",
            "localhost:x",
        ),
        *("localhost:99999", "[::1", "::1", ":8090", "localhost evil.example", "evil.example,localhost"),
    ],
)
def test_any_other_name_is_not(host: str):
    with pytest.raises(Forbidden, match="does not go by the name") as caught:
        Guard(checks_host=True).admit(asked({"host": host}))
    assert caught.value.status == 403
    Guard(checks_host=False).admit(asked({"host": host}))  # a socket file, or an address of the network


def test_an_allowed_host_is_ours_with_any_port():
    guard = Guard(checks_host=True, hosts=["Models.Example"])
    guard.admit(asked({"host": "models.example:443"}))
    guard.admit(asked({"host": "localhost"}))
    with pytest.raises(Forbidden):
        guard.admit(asked({"host": "sub.models.example"}))


def test_the_host_of_an_allowed_origin_is_ours():
    Guard(checks_host=True, origins=["https://chat.example"]).admit(asked({"host": "chat.example"}))


def test_what_it_listens_on_is_its_name():
    for name, host in (("Box", "box:8090"), ("192.168.1.5", "192.168.1.5"), ("fe80::1", "[fe80::1]:1")):
        Guard(checks_host=True, own_name=name).admit(asked({"host": host}))
    for everywhere, host in (("0.0.0.0", "0.0.0.0:8090"), ("::", "[::]:8090"), ("", "")):
        with pytest.raises(Forbidden):
            Guard(checks_host=True, own_name=everywhere).admit(asked({"host": host or "evil.example"}))


def test_without_a_host_header_there_is_no_browser():
    Guard(checks_host=True).admit(asked({"host": ""}))


# The Origin header


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443", "http://LOCALHOST:3000"),
        "http://127.0.0.1:8090",
    ],
)
def test_a_page_of_this_machine_may_ask(origin: str):
    assert Guard().admit(asked({"origin": origin})) == origin


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "http://localhost.evil.example", "http://evil.example@localhost"),
        *(
            "http://localhost@evil.example",
            "file://",
            "localhost",
            "http://0.0.0.0:8090",
            "http://192.168.1.5",
        ),
        *(
            "chrome-extension://localhost",
            "http://localhost:x",
            "http://localhost/path",
            "http://",
            "http://[",
        ),
    ],
)
def test_any_other_page_may_not(origin: str):
    with pytest.raises(Forbidden, match="may not use this server") as caught:
        Guard().admit(asked({"origin": origin}))
    assert "--allowed-origins" in caught.value.hint


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://models.example", "models.example", True),
        ("http://models.example", "models.example:80", True),
        ("https://models.example", "models.example", True),  # a proxy speaks TLS for us
        ("https://models.example:443", "Models.Example", True),
        ("http://models.example:8090", "models.example:8090", True),
        ("http://models.example", "models.example:8090", False),
        ("http://models.example:8090", "models.example", False),
        ("http://other.example", "models.example", False),
        ("ftp://models.example", "models.example", False),
        ("http://models.example", "", False),
    ],
)
def test_a_page_of_our_own(origin: str, host: str, same: bool):
    headers = {"origin": origin, "host": host}
    if same:
        assert Guard().admit(asked(headers)) == origin
    else:
        with pytest.raises(Forbidden):
            Guard().admit(asked(headers))


def test_allowed_origins():
    guard = Guard(origins=["https://Chat.example:8443/", "null", "app://obsidian.md"])
    assert Guard(origins=["https://a.example:443"]).admit(asked({"origin": "https://a.example"}))
    for origin in ("https://chat.example:8443", "null", "app://obsidian.md", "http://localhost"):
        assert guard.admit(asked({"origin": origin})) == origin
    for origin in ("https://chat.example", "http://chat.example:8443", "https://a.chat.example:8443"):
        with pytest.raises(Forbidden):
            guard.admit(asked({"origin": origin}))
    assert guard.admit(asked({})) is None  # no page at all


def test_any_origin():
    guard = Guard(origins=["*"], checks_host=True)
    assert guard.admit(asked({"origin": "https://evil.example", "host": "evil.example"})) == ANY


@pytest.mark.parametrize(
    "origin", ["chat.example", "https://", "https://chat.example/page", "https://*.x", "https://u@x", ""]
)
def test_what_is_no_origin_cannot_be_allowed(origin: str):
    with pytest.raises(UsageError, match="not an origin"):
        Guard(origins=[origin])


@pytest.mark.parametrize("host", ["", "a:80", "http://a", "a/b", "[::1]:80", "a b@c", "*", "*.a"])
def test_what_is_no_host_cannot_be_allowed(host: str):
    with pytest.raises(UsageError, match="not a host"):
        checked_host(host)


@pytest.mark.parametrize("host", ["models.example", "10.0.0.7", "[2001:db8::1]"])
def test_hosts_that_can(host: str):
    assert checked_host(host) == host.strip("[]")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40))
def test_any_header_is_answered_with_yes_or_a_refusal(text: str):
    guard = Guard(api_keys=["k"], checks_host=True)
    for name in ("host", "origin", "authorization", "x-api-key"):
        try:
            guard.admit(asked({name: text}))
            guard.check_key(asked({name: text}))
        except (Forbidden, Unauthorized):
            pass


# Keys


def right(guard: Guard, headers: Mapping[str, str]) -> bool:
    try:
        guard.check_key(asked(headers))
    except Unauthorized:
        return False
    return True


@pytest.mark.parametrize(
    ("headers", "ok"),
    [
        ({"authorization": "Bearer second"}, True),
        ({"authorization": "bearer  second "}, True),
        ({"x-api-key": "first"}, True),
        ({"authorization": "Bearer wrong", "x-api-key": "first"}, True),
        ({"x-api-key": "schlüssel".encode().decode("latin-1")}, True),
        ({}, False),
        ({"authorization": "second"}, False),
        ({"authorization": "Basic second"}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": "Bearer "}, False),
        ({"authorization": "Bearer secon"}, False),
        ({"authorization": "Bearer secondd"}, False),
        ({"authorization": "Bearer Second"}, False),
        ({"x-api-key": "firstsecond"}, False),
        ({"x-api-key": ""}, False),
    ],
)
def test_keys(headers: dict[str, str], ok: bool):
    assert right(Guard(api_keys=["first", "second", "schlüssel"]), headers) is ok


def test_without_keys_nobody_is_asked():
    assert right(Guard(), {}) and right(Guard(), {"authorization": "Bearer whatever"})
    assert not Guard().needs_key


@pytest.mark.parametrize("given", ["first", "third", "wrong"])
def test_every_key_is_compared_whatever_the_others_said(given: str):
    seen: list[tuple[bytes, bytes]] = []

    def counting(a: bytes, b: bytes) -> bool:
        seen.append((a, b))
        return hmac.compare_digest(a, b)

    guard = Guard(api_keys=["first", "second", "third"], compare=counting)
    right(guard, {"authorization": f"Bearer {given}", "x-api-key": given})
    assert len(seen) == 6 and len({a for a, _ in seen}) == 3
    assert {len(x) for pair in seen for x in pair} == {32}  # not even the length can be told


def test_the_comparison_is_the_one_in_constant_time():
    assert Guard(api_keys=["k"])._compare is hmac.compare_digest


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "\ta", "a\x00"])
def test_what_cannot_be_a_key_is_refused_and_not_repeated(key: str):
    with pytest.raises(UsageError) as caught:
        checked_key(key)
    assert "a\n" not in str(caught.value) and "a b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "ours"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("a", False)]
)
def test_loopback(name: str, ours: bool):
    assert is_loopback(name) is ours
