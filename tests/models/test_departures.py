"""Which configs are said to depart from the published code, held against what tests/oracle/ has measured.

A case of the oracle with a `read_as` is one where mlx-lm computes something else than transformers.
"""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import MlxoneError, UnsupportedModel
from mlxone.formats.config import Config
from mlxone.models.families.departures import ANY, DEPARTURES, departures, of_family
from mlxone.models.families.table import FAMILIES
from tests.models.tiny_families import CONFIGS, PUBLISHED
from tests.oracle.case import Case
from tests.oracle.configs import CASES

# Where the config says that numbers differ, and the oracle's prompt or weights do not show it.
NOT_SHOWN = {
    "phi3-longrope-long": "the prompt is longer than those that the short factors are for",
    "granitemoehybrid": "its steps are long",
    "granitemoehybrid-rope": "its steps are long",
    "granitemoehybrid-dense": "its steps are long",
}
# There transformers itself departs from the code that the models were published with.
NOT_THE_PUBLISHERS = {"nemotron_h"}
# mlxone cannot be told to compute it.
CANNOT_BE_TOLD = {"gemma", "gemma-legacy", "starcoder2", "starcoder2-window"}


def said(config: dict[str, Any], **changes: Any) -> tuple[str, ...]:
    return departures(Config({**config, **changes}))


def case(name: str) -> dict[str, Any]:
    return next(case.config for case in CASES if case.name == name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_the_oracle_has_shown_is_said_and_nothing_else(case: Case):
    lines = said(case.config)
    shown = bool(case.read_as) and case.name not in NOT_THE_PUBLISHERS
    assert bool(lines) == (shown or case.name in NOT_SHOWN)
    assert all("\n" not in line and "differs" in line for line in lines)


@pytest.mark.parametrize("case", [case for case in CASES if case.read_as], ids=lambda case: case.name)
def test_nothing_is_said_of_the_config_that_mlx_lm_computes(case: Case):
    if case.name in CANNOT_BE_TOLD:
        with pytest.raises(UnsupportedModel):
            said(case.as_read)
    else:
        assert said(case.as_read) == ()


def test_the_lists_of_exceptions_are_not_longer_than_they_must_be():
    by_name = {case.name: case for case in CASES}
    assert all(not by_name[name].read_as and said(by_name[name].config) for name in NOT_SHOWN)
    assert all(by_name[name].read_as and not said(by_name[name].config) for name in NOT_THE_PUBLISHERS)


# From when on ----------------------------------------------------------------------------------


def test_it_says_how_much_the_published_model_sees():
    (line,) = said(case("mistral"), sliding_window=4096, max_position_embeddings=32768)
    assert line == (
        "sees all tokens where the published model sees the last 4,096: differs in texts longer than that"
    )


@pytest.mark.parametrize("name", ["mistral", "mixtral", "ministral3", "phi3"])
@pytest.mark.parametrize(("window", "departs"), [(None, False), (511, True), (512, False), (4096, False)])
def test_a_window_counts_where_a_text_can_be_longer(name: str, window: int | None, departs: bool):
    assert bool(said(case(name), sliding_window=window)) is departs


@pytest.mark.parametrize(("name", "departs"), [("mistral", True), ("gemma2", True), ("mixtral", False)])
def test_a_window_that_is_not_stated_is_the_publishers_default(name: str, departs: bool):
    config = {k: v for k, v in case(name).items() if k != "sliding_window"} | {
        "max_position_embeddings": 32768
    }
    assert any("the last 4,096" in line for line in said(config)) is departs
    assert not said(config, sliding_window=None)  # null says that there is none


def test_a_window_that_is_computed_is_no_departure():
    layers = {"layer_types": ["sliding_attention"] * 3}
    assert said(case("mistral-window")) and not said(case("mistral-window"), **layers)
    assert said(case("mistral-window"), layer_types=["full_attention"] * 3)


def test_the_full_layers_of_gemma_2():
    assert "in some layers" in said(case("gemma2-window"))[0]
    assert not said(case("gemma2-window"), layer_types=["full_attention"] * 4)
    assert "in some layers" not in said(case("gemma2-window"), layer_types=["sliding_attention"] * 4)[0]


@pytest.mark.parametrize(("inner", "departs"), [("mistral", True), ("ministral3", True), ("llama", False)])
def test_the_text_model_within_a_frame(inner: str, departs: bool):
    text = case("ministral3" if inner == "ministral3" else "mistral") | {
        "model_type": inner, "sliding_window": 16,
    }  # fmt: skip
    assert bool(said({"model_type": "mistral3", "text_config": text})) is departs


def test_short_factors_that_are_the_long_ones():
    scaling = {"type": "longrope", "short_factor": [2.0] * 6, "long_factor": [2.0] * 6}
    config = case("phi3-longrope-short")
    assert "up to 256 tokens" in said(config)[0]
    for short in ([2.0] * 6, 2.0, [2.0], None):
        assert not said(config, rope_scaling=scaling | {"short_factor": short})
    assert not said(config, rope_scaling=scaling | {"long_factor": 2.0})


@pytest.mark.parametrize(("truncate", "departs"), [(False, True), (True, False), (None, False)])
def test_the_ends_of_yarns_ramp(truncate: bool | None, departs: bool):
    for name, family in (("gpt_oss", "gpt_oss"), ("llama-yarn", "llama")):
        scaling = case(name)["rope_scaling"] | {"truncate": truncate}
        assert bool(said(case(name), rope_scaling=scaling)) is departs, family


@pytest.mark.parametrize(
    ("weights", "departs"),
    [
        ({}, False),
        ({"mscale": 1.0}, False),
        ({"mscale": 1.0, "mscale_all_dim": 0.0}, False),
        ({"mscale": 0.7, "mscale_all_dim": 0.7}, False),
        ({"mscale": 0.7}, True),
        ({"mscale": 0.7, "mscale_all_dim": 0.0}, True),
        ({"mscale_all_dim": 1.0}, True),
        ({"mscale": 0.7, "attention_factor": 1.0}, False),  # the program refuses any but its own
        ({"mscale": 0.7, "factor": "4"}, False),  # and this
    ],
)
def test_yarns_weights_without_each_other(weights: dict[str, float], departs: bool):
    scaling = case("llama-yarn")["rope_scaling"] | weights
    assert bool(said(case("llama-yarn"), rope_scaling=scaling)) is departs
    assert not said(case("deepseek_v3"), rope_scaling=scaling)


def test_the_exact_gelu_where_it_is_meant():
    assert said(case("starcoder2")) and not said(case("starcoder2"), hidden_act="gelu")
    assert said({k: v for k, v in case("starcoder2").items() if k != "hidden_act"})


def test_granite_without_mamba_and_with_groups_of_it():
    config = case("granitemoehybrid-stated-limits")
    assert "one norm over all groups" in said(config, mamba_n_groups=2)[0]
    config = {k: v for k, v in config.items() if k != "time_step_limit"}
    assert said(config) and not said(config, layer_types=["attention"] * 4)


# The rows ---------------------------------------------------------------------------------------


def test_every_row_is_of_families_that_there_are():
    known = {family.name for family in FAMILIES} | {ANY}
    assert all(row.matters and set(row.matters) <= known for row in DEPARTURES)
    assert [row.setting for row in of_family("granitemoehybrid")] == [
        "time_step_limit that is not stated", "mamba_n_groups above 1",
    ]  # fmt: skip
    assert of_family("qwen3") == []


def test_every_row_is_shown_by_a_config():
    lines = [line for case in CASES for line in said(case.config)]
    lines += said(case("granitemoehybrid"), mamba_n_groups=2)
    for row in DEPARTURES:
        assert any(line.startswith(f"{row.computed} where the published model ") for line in lines), row


def test_what_is_published():
    """The true sizes, of which some lie here without what all tiny configs say."""
    rest = {"num_hidden_layers": 2, "rms_norm_eps": 1e-5}
    named = {"Gemma-2B", "Gemma-2-2B", "gpt-oss-20b", "StarCoder2-3B", "Phi-3.5-mini", "Llama-3.2-1B",
             "Mixtral-8x7B", "Qwen3-0.6B", "DeepSeek-V3", "Ministral-3-3B"}  # fmt: skip
    departing = {name for name in named if said({**rest, **PUBLISHED[name]})}
    assert departing == {"Gemma-2B", "Gemma-2-2B", "gpt-oss-20b", "StarCoder2-3B", "Phi-3.5-mini"}


# Whatever a config says -------------------------------------------------------------------------

KEYS = ("sliding_window", "layer_types", "rope_scaling", "rope_parameters", "time_step_limit", "hidden_act")
INNER = ("type", "rope_type", "factor", "truncate", "mscale", "mscale_all_dim", "short_factor", "long_factor",
         "original_max_position_embeddings", "attention_factor")  # fmt: skip
scalars = st.sampled_from([
    None, True, False, 0, 1, -1, 2, 10**400, 1e39, -1e30, 0.5, math.nan, math.inf, "", "yarn", "longrope",
    [], [1], ["sliding_attention"] * 3, {}, [{}],
])  # fmt: skip


@given(
    st.sampled_from(sorted(CONFIGS)),
    st.dictionaries(st.sampled_from(KEYS), scalars | st.dictionaries(st.sampled_from(INNER), scalars)),
)
def test_a_config_of_any_kind_is_read_or_refused(name: str, changes: dict[str, Any]):
    try:
        lines = said(CONFIGS[name], **changes)
    except MlxoneError:
        return
    assert all(isinstance(line, str) and len(line) < 300 for line in lines)


def test_it_is_said_without_mlx():
    code = "import sys, mlxone.models.families.departures as _; print({'mlx', 'mlx.core'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
