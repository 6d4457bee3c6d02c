"""`/metrics`, read by a small parser of the text format written from its description."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.server.protocols.prometheus import MEDIA_TYPE, Metric, text
from mlxone.service.figures import Figures, Totals

IDLE = Figures("serve", None, 1.5)
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(exposition: bytes) -> tuple[dict[str, str], Samples]:
    """Types by name, and samples; fails on what a scraper would refuse."""
    page = exposition.decode()
    assert page.endswith("\n")
    types: dict[str, str] = {}
    helped: set[str] = set()
    samples: Samples = {}
    for line in page[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, words = line.removeprefix("# HELP ").partition(" ")
            assert name not in helped and words
            helped.add(name)
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name in helped and name not in types and kind in ("counter", "gauge")
            types[name] = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found, line
            assert found[1] == list(types)[-1]  # a metric's lines stand together, after its type
            key = (found[1], labels(found[2] or ""))
            assert key not in samples
            samples[key] = float(found[3])
    return types, samples


def labels(inside: str) -> tuple[tuple[str, str], ...]:
    pairs, place = [], 0
    while place < len(inside):
        found = LABEL.match(inside, place)
        assert found, inside
        pairs.append((found[1], re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], found[2])))
        place = found.end()
    return tuple(pairs)


def test_all_lines_are_understood_and_named_as_they_should_be():
    types, samples = read(text(IDLE, "1.2.3"))
    assert all(name.startswith("mlxone_") for name in types)
    assert {name for name, kind in types.items() if kind == "counter"} == {
        name for name in types if name.endswith("_total")
    }
    assert samples["mlxone_info", (("version", "1.2.3"),)] == 1
    assert samples["mlxone_start_time_seconds", ()] == 1.5
    assert {name for name, _ in samples} | {"mlxone_model_loaded"} == types.keys()


def test_answers_are_counted_by_how_they_ended():
    figures = replace(IDLE, totals=Totals(answers=4, failed=3, cancelled=2, refused=1))
    _, samples = read(text(figures, "1"))
    ends = {
        labels[0][1]: value for (name, labels), value in samples.items() if name == "mlxone_answers_total"
    }
    assert ends == {"finished": 4, "failed": 3, "cancelled": 2, "refused": 1}


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_any_name_of_a_model_comes_back(name: str):
    _, samples = read(text(replace(IDLE, loaded=(name,)), "1"))
    assert samples["mlxone_model_loaded", (("model", name),)] == 1


@given(st.floats())
def test_any_number_comes_back(value: float):
    _, samples = read(text(replace(IDLE, decode_tps=value), "1"))
    back = samples["mlxone_decode_tokens_per_second", ()]
    assert back == value or (back != back and value != value)


def test_a_callers_own_metrics_stand_beside_ours():
    more = Metric("requests_total", "counter", "Requests.", [({"path": 'a"', "code": "200"}, 3)])
    types, samples = read(text(IDLE, "1", [more]))
    assert types["mlxone_requests_total"] == "counter"
    assert samples["mlxone_requests_total", (("path", 'a"'), ("code", "200"))] == 3


def test_the_media_type_is_the_formats():
    assert MEDIA_TYPE.startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize(
    "page", [b"x 1", b"# HELP a b\n# TYPE a odd\n", b"# HELP a b\n# TYPE a gauge\nb 1\n"]
)
def test_the_parser_itself_refuses(page: bytes):
    with pytest.raises(AssertionError):
        read(page)
