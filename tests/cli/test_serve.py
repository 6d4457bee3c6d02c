"""`mlxone serve` from its flags to its exit code; the server itself is played, signals are real."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from mlxone.cli import serve_session
from mlxone.cli.later_flags import LATER
from mlxone.core.errors import ModelOverBudget, UsageError
from mlxone.core.settings import SERVE_SETTINGS, SERVER_SETTINGS
from mlxone.hub import places
from mlxone.server.counters import Counters
from mlxone.service.figures import AdmissionFigures, Figures, MemoryFigures, ModelCard

READY = "mlxone serving scripted on http://127.0.0.1:8090 (context 4,096; 0.54 of 5.1 GB)\n"


@dataclass
class Played:
    """A context and a server at once; what they were made with and what was done with them."""

    cards: list[ModelCard] = field(default_factory=lambda: [ModelCard("scripted", 0, 4096, loaded=True)])
    signals: tuple[int, ...] = (signal.SIGTERM,)  # that come when it has started
    while_starting: int | None = None  # one that comes before, and start never ends
    error: BaseException | None = None
    running: int = 0
    made_with: dict[str, Any] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    url: str = "http://127.0.0.1:8090"
    counters: Counters = field(default_factory=Counters)

    def context(self, models: Any, **how: Any) -> Played:
        self.made_with.update(models=list(models), **how)
        return self

    def server(self, context: Any, **how: Any) -> Played:
        assert context is self
        self.made_with.update(how)
        return self

    def models(self) -> list[ModelCard]:
        return self.cards

    def figures(self) -> Figures:
        return Figures(
            owner="serve",
            model=None,
            started_at=0.0,
            running=self.running,
            admission=AdmissionFigures(max_safe_context=9000, usable_bytes=5_100_000_000),
            memory=MemoryFigures(active_bytes=540_000_000),
        )

    async def start(self) -> None:
        self.done.append("start")
        loop = asyncio.get_running_loop()
        if self.error:
            raise self.error
        if self.while_starting:
            loop.call_soon(os.kill, os.getpid(), self.while_starting)
            await asyncio.Event().wait()
        for number in self.signals:
            loop.call_soon(os.kill, os.getpid(), number)
        logging.getLogger("mlxone.server").info("listening")

    async def stop(self) -> None:
        self.done.append("stop")


class Listed:
    """A catalogue of the played models."""

    def __init__(self, cards: list[ModelCard]) -> None:
        self.cards = cards

    def look(self) -> list[Any]:
        return [SimpleNamespace(id=card.id, card=card) for card in self.cards]

    def find(self, name: None) -> Any:
        return SimpleNamespace(id="org/scripted-1B")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    made = Played()
    monkeypatch.setattr(serve_session, "Context", made.context)
    monkeypatch.setattr(serve_session, "create_server", made.server)
    monkeypatch.setattr("mlxone.cli.port_probe.refuse_if_taken", lambda *_: None)
    monkeypatch.setattr("mlxone.service.catalogue.Catalogue", lambda folders: Listed(made.cards))
    return made


def write_config(text: str) -> None:
    file = places.config_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_one_line_on_stdout_the_log_on_stderr(mlxone, played):
    result = mlxone("serve", "scripted")
    assert (result.code, result.out) == (0, READY)
    assert [line.split(" ", 1)[1] for line in result.err.splitlines()] == [
        "info  listening",
        "info  stopping",
    ]
    assert played.done == ["start", "stop"]


def test_ctrl_c_ends_with_130(mlxone, played):
    played.signals = (signal.SIGINT,)
    result = mlxone("serve", "scripted")
    assert (result.code, result.out) == (130, READY)
    assert played.done == ["start", "stop"]


def test_the_second_signal_insists(mlxone, played, monkeypatch):
    insisted: list[int] = []
    monkeypatch.setattr(serve_session, "die", insisted.append)

    async def stop() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not insisted:
            await asyncio.sleep(0)

    played.stop = stop
    mlxone("serve", "scripted")
    assert insisted == [signal.SIGINT]


def test_a_signal_while_it_loads_ends_it_before_it_was_ready(mlxone, played):
    played.while_starting = signal.SIGTERM
    result = mlxone("serve", "scripted")
    assert (result.code, result.out) == (0, "")
    assert played.done == ["start", "stop"]


def test_what_is_being_answered_is_mentioned(mlxone, played):
    played.running = 2
    result = mlxone("serve", "scripted", "--grace", "3")
    assert result.err.endswith("info  stopping: 2 answers may go on for 3 s; once more stops at once\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(ModelOverBudget("too large"), 10), (UsageError("no such port"), 2), (ValueError("x"), 70)],
)
def test_a_start_that_fails_is_one_line_and_its_code(error: Exception, code: int, mlxone, played):
    played.error = error
    result = mlxone("serve", "scripted")
    assert (result.code, result.out) == (code, "")
    assert result.err.count("\n") == 1
    assert str(error) in result.err
    assert played.done == ["start", "stop"]


# What reaches the server.


def test_nothing_given(mlxone, played):
    mlxone("serve", "scripted")
    assert played.made_with.pop("options").prompt_cache_bytes == 2_000_000_000
    assert played.made_with == {
        "models": ["scripted"], "folders": (), "owner": "serve",
        "host": "127.0.0.1", "port": 8090, "uds": None, "grace": 10.0,
        "api_keys": (), "allowed_origins": (), "allowed_hosts": (),
    }  # fmt: skip


def test_flags_variables_and_the_file_reach_it(mlxone, played, monkeypatch, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("sk-1\nsk-2\n")
    monkeypatch.setenv("MLXONE_PORT", "9001")
    monkeypatch.setenv("MLXONE_GRACE", "5")
    monkeypatch.setenv("MLXONE_API_KEY", f"@{keys}")
    write_config('[serve]\ngrace = 7\nhost = "::1"\ntop_k = 40\n')
    assert mlxone("serve", "scripted", "--port", "9002", "--temp", "0", "--allow-manage").code == 0
    made = played.made_with
    assert (made["port"], made["grace"], made["host"], made["api_keys"]) == (
        9002,
        5.0,
        "::1",
        ("sk-1", "sk-2"),
    )
    assert made["options"].sampling == {"temperature": 0.0, "top_k": 40}
    assert made["options"].allow_manage is True


def test_a_key_is_in_no_line_of_the_log(mlxone, played):
    result = mlxone("serve", "scripted", "--api-key", "sk-secret", "--log-level", "debug")
    assert played.made_with["api_keys"] == ("sk-secret",)
    assert "secret" not in result.out + result.err


# Which models.


def test_several_models_each_once(mlxone, stage, played):
    mlxone("serve", "a", "--model", "b", "--model", "a", "--model-dir", "d1", "--model-dir", "d2")
    assert played.made_with["models"] == ["a", "b"]
    assert played.made_with["folders"] == ("d1", "d2")
    assert stage.looked_in == [("d1", "d2")] * 3


def test_every_model_is_found_before_anything_starts(mlxone, stage, played):
    stage.missing = {"b"}
    result = mlxone("serve", "a", "--model", "b")
    assert (result.code, result.out) == (3, "")
    assert result.err == "mlxone: no model b on this machine (mlxone get b)\n"
    assert played.done == []


def test_a_missing_one_is_downloaded_where_that_is_wanted(mlxone, stage, played):
    stage.missing = {"org/b"}
    result = mlxone("serve", "org/b", "--pull", "--quiet")
    assert (result.code, stage.fetched) == (0, ["org/b"])


def test_without_a_model_all_are_served_and_the_line_says_so(mlxone, played):
    played.cards = [ModelCard(f"org/{n}", 0, 4096) for n in range(12)]
    played.cards.append(ModelCard("broken", 0, 4096, problem="half of it is missing"))
    result = mlxone("serve")
    assert played.made_with["models"] == []
    assert result.out == (
        "mlxone serving 12 models, loaded when asked for, org/scripted-1B by default, "
        "on http://127.0.0.1:8090\n"
    )
    assert json.loads(mlxone("serve", "--log-json").out)["default"] == "org/scripted-1B"


def test_a_default_that_was_chosen_has_to_be_there(mlxone, stage, played):
    stage.missing = {"scripted"}
    result = mlxone("serve")
    assert (result.code, result.out, played.done) == (3, "", [])
    assert result.err == "mlxone: no model scripted on this machine (mlxone get scripted)\n"


@pytest.fixture
def no_starter(stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody chose a default, and the starter is neither here nor to be had."""
    monkeypatch.setattr(stage, "missing", {"starter"})
    monkeypatch.setattr(sys.modules["mlxone.hub.find"], "default_model", lambda: "starter")
    monkeypatch.setattr("mlxone.cli.opening._fetch_starter", lambda quiet: None)


def test_without_the_starter_the_others_are_served(mlxone, no_starter, played):
    played.cards = [ModelCard(f"org/{n}", 0, 4096) for n in range(2)]
    result = mlxone("serve")
    assert result.out.startswith("mlxone serving 2 models, loaded when asked for, no default, on http")
    warning = "requests have to name a model: no model starter on this machine (mlxone get starter)"
    assert result.err.splitlines()[0].endswith(f" warn  {warning}")
    result = mlxone("serve", "--log-json")
    assert json.loads(result.out)["default"] is None
    first = json.loads(result.err.splitlines()[0])
    assert (first["level"], first["message"]) == ("warn", warning)


@pytest.mark.parametrize("cards", [[], [ModelCard("half", 0, problem="half of it is missing")]])
def test_where_nothing_can_be_served_nothing_starts(cards, mlxone, no_starter, played):
    played.cards = cards
    result = mlxone("serve")
    assert (result.code, result.out, played.done) == (3, "", [])
    assert result.err.startswith("mlxone: there is no model on this machine that can be served (`mlxone get ")


# How it speaks.


def test_json_lines_all_the_way(mlxone, played):
    result = mlxone("serve", "scripted", "--log-json")
    ready = json.loads(result.out)
    assert ready.pop("pid") == os.getpid()
    assert ready.pop("version")
    assert ready == {
        "event": "ready", "url": played.url, "models": ["scripted"], "loaded": ["scripted"], "default": None,
        "context": 4096, "memory_bytes": 540_000_000, "usable_bytes": 5_100_000_000,
    }  # fmt: skip
    assert [json.loads(line)["message"] for line in result.err.splitlines()] == ["listening", "stopping"]


def test_quiet_says_only_what_goes_wrong(mlxone, played):
    assert mlxone("serve", "scripted", "--quiet").err == ""
    assert "listening" in mlxone("serve", "scripted", "--quiet", "--log-level", "info").err


@pytest.mark.parametrize(
    ("ctx_size", "length", "shown"), [(None, 4096, "4,096"), (512, 4096, "512"), (None, 100_000, "9,000")]
)
def test_the_context_is_the_least_of_what_limits_it(ctx_size, length, shown, mlxone, played):
    played.cards = [ModelCard("scripted", 0, length, loaded=True)]
    flags = [] if ctx_size is None else ["--ctx-size", str(ctx_size)]
    assert f"(context {shown};" in mlxone("serve", "scripted", *flags).out


def test_several_models_have_no_context_in_common(mlxone, played):
    played.cards = [ModelCard("a", 0, 512, loaded=True), ModelCard("b", 0, 4096, loaded=True)]
    result = mlxone("serve", "--model", "a", "--model", "b")
    assert result.out == "mlxone serving a, b on http://127.0.0.1:8090 (0.54 of 5.1 GB)\n"
    assert json.loads(mlxone("serve", "--model", "a", "--model", "b", "--log-json").out)["context"] is None
    played.cards[1] = ModelCard("b", 0, 4096)  # no place for both: whose figures these are is not said
    assert "context" not in mlxone("serve", "--model", "a", "--model", "b").out


def test_names_cannot_move_the_cursor(mlxone, played):
    played.cards = [ModelCard("evil\x1b[2J\nname", 0, loaded=True)]
    out = mlxone("serve", "scripted").out
    assert "\x1b" not in out
    assert out.count("\n") == 1


# What is refused, before anything else happens.


def test_a_port_that_is_taken(mlxone, played, monkeypatch):
    def taken(host: str, port: int, uds: str | None) -> None:
        raise UsageError(f"{host}:{port} is taken")

    monkeypatch.setattr("mlxone.cli.port_probe.refuse_if_taken", taken)
    result = mlxone("serve", "no-such-model")
    assert (result.code, result.err) == (2, "mlxone: 127.0.0.1:8090 is taken\n")
    assert played.done == []


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize("form", ["{}", "{}=4", "{} 4"])
def test_a_flag_that_is_to_come_says_so(name: str, form: str, mlxone, played):
    result = mlxone("serve", *form.format(name).split())
    assert result.code == 2
    assert result.err == f"mlxone: {name} is not built yet (until then {LATER[name]})\n"
    assert played.done == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "65536"], "--port must be between 0 and 65535, not 65536"),
        (["--port", "-1"], "--port must be between 0 and 65535, not -1"),
        (["--port", "http"], "--port takes a whole number, not 'http'"),
        (["--memory-budget", "0"], "--memory-budget must be between 0.001 and 1000000, not 0.0"),
        (["--memory-budget", "lots"], "--memory-budget takes a size such as 10GB, 500MB or"),
        (["--prompt-cache", "-1"], "--prompt-cache takes a size such as"),
        (["--prompt-cache-bytes", "2GB"], "--prompt-cache-bytes takes a whole number, not '2GB'"),
        (["--prompt-cache-size", "0"], "--prompt-cache-size must be at least 1, not 0"),
        (["--prefill-step", "0"], "--prefill-step must be at least 1, not 0"),
        (["--queue", "0"], "--queue must be at least 1, not 0"),
        (["--timeout", "nan"], "--timeout must be between 0 and 1000000, not nan"),
        (["--timeout", "inf"], "--timeout must be between 0 and 1000000, not inf"),
        (["--grace", "-1"], "--grace must be between 0 and 1000000, not -1"),
        (["--temp", "6"], "--temperature must be between 0 and 5, not 6"),
        (["--thinking", "maybe"], "--thinking is true or false, not 'maybe'"),
        (["--log-level", "loud"], "--log-level must be one of error, warn, info, debug, not loud"),
        (["--api-key", ""], "--api-key: an API key has to have characters"),
        (["--prompt-cache", "1", "--prompt-cache-bytes", "1"],
         "--prompt-cache and --prompt-cache-bytes do not go together (give one of them)"),
        (["--uds", "s", "--port", "1"], "--uds and --port do not go together (give one of them)"),
        (["--prompt", "hi"], "no such flag: --prompt"),
        (["--serve"], "no such flag: --serve"),
        (["--port"], "--port needs a value"),
        (["a", "b"], "2 words where MODEL is expected (several models: --model a --model b)"),
        (["--bogus"], "no such flag: --bogus (`mlxone serve --help` lists them)"),
        (["--prot", "1"], "no such flag: --prot (did you mean --port?)"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_one_line_that_names_it(flags: list[str], says: str, mlxone, played):
    result = mlxone("serve", *flags)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"mlxone: {says}")
    assert result.err.count("\n") == 1
    assert played.done == []


def test_a_config_file_that_is_wrong_says_where(mlxone, played):
    write_config("serve = 1")
    assert "serve must be a table, as under [serve], not 1" in mlxone("serve").err
    write_config("[serve]\nprot = 1\n")
    result = mlxone("serve")
    assert (result.code, played.done) == (2, [])
    assert f"{places.config_file()}: no setting of the server is called 'prot'" in result.err
    write_config('[serve]\napi_key = "a b"\n')
    assert f"mlxone: {places.config_file()}: serve.api_key: an API key has to" in mlxone("serve").err


def test_a_start_that_fails_names_the_place_of_the_setting(mlxone, played, monkeypatch):
    played.error = UsageError("ctx_size 9,999 is beyond the context of scripted: 4,096")
    beyond = "9,999 is beyond the context of scripted: 4,096\n"
    assert mlxone("serve", "scripted").err == f"mlxone: --ctx-size {beyond}"
    monkeypatch.setenv("MLXONE_CTX_SIZE", "9999")
    assert mlxone("serve", "scripted").err == f"mlxone: MLXONE_CTX_SIZE {beyond}"


def test_every_setting_is_a_flag_with_a_section_of_its_own(mlxone):
    from mlxone.cli.serve import FLAGS, ORDER

    found = {parameter.name: parameter for parameter in FLAGS}
    assert {setting.name for setting in SERVE_SETTINGS} <= set(found)
    assert {getattr(flag, "section", "Other") for flag in FLAGS[1:]} == {"Models", *ORDER, "Other"}
    assert len({s.name for s in SERVE_SETTINGS}) == len(SERVE_SETTINGS) > len(SERVER_SETTINGS)
    assert mlxone("serve", "--help").code == 0
