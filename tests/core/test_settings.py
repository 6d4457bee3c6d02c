from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import UsageError
from mlxone.core.settings import (
    BY_NAME,
    SERVE_SETTINGS,
    SERVER_SETTINGS,
    SETTINGS,
    Setting,
    check,
    check_value,
)
from mlxone.core.words import Sampling

ALL = (*SETTINGS, *SERVER_SETTINGS)
with_range = [s for s in ALL if s.range and not s.choices]


def test_names_flags_and_aliases_are_unique():
    spellings = [word for s in ALL for word in (s.flag, *s.aliases)]
    assert len(set(spellings)) == len(spellings)
    assert len(BY_NAME) == len(SETTINGS)
    assert set(SERVER_SETTINGS) < set(SERVE_SETTINGS) < set(ALL)


@pytest.mark.parametrize("setting", ALL, ids=lambda s: s.name)
def test_defaults_and_bounds_are_of_the_kind_and_in_range(setting: Setting):
    assert setting.help.endswith(".")
    assert setting.run_default
    if setting.default is not None:
        assert type(setting.default) is setting.kind
        assert check_value(setting, setting.default) == setting.default


@pytest.mark.parametrize("setting", with_range, ids=lambda s: s.name)
def test_bounds_belong_to_the_range_and_their_neighbours_do_not(setting: Setting):
    outward = ((setting.low, -math.inf), (setting.high, math.inf))
    for bound, direction in outward:
        if bound is None:
            continue
        assert check_value(setting, bound) == bound
        beyond = (
            math.nextafter(bound, direction) if setting.kind is float else bound + math.copysign(1, direction)
        )
        if beyond != bound:  # 2**63 - 1 has no float neighbour one away
            with pytest.raises(UsageError):
                check_value(setting, beyond)


@pytest.mark.parametrize("setting", with_range, ids=lambda s: s.name)
def test_not_a_number_is_out_of_every_range(setting: Setting):
    with pytest.raises(UsageError):
        check_value(setting, math.nan)


def test_the_error_is_one_line_that_names_the_flag_the_range_and_the_value():
    with pytest.raises(UsageError) as refused:
        check("top_p", 1.5, shown_as="--top-p")
    assert str(refused.value) == "--top-p must be between 0 and 1, not 1.5"
    with pytest.raises(UsageError, match="^max_tokens must be at least 1, not 0$"):
        check("max_tokens", 0)


@given(st.sampled_from(SETTINGS), st.one_of(st.integers(), st.floats()))
def test_check_returns_the_value_itself_or_refuses(setting: Setting, value: float):
    try:
        assert check(setting.name, value) is value
    except UsageError as error:
        assert "\n" not in str(error)
        assert setting.range in str(error)


def test_unset_is_always_in_range():
    assert all(check_value(s, None) is None for s in ALL)


def test_a_choice_is_one_of_those_that_the_error_lists():
    setting = next(s for s in SERVER_SETTINGS if s.choices)
    assert [check_value(setting, choice) for choice in setting.choices] == list(setting.choices)
    with pytest.raises(UsageError, match="^log_level must be one of error, warn, info, debug, not warning$"):
        check_value(setting, "warning")


def test_the_library_defaults_are_those_of_sampling():
    fields = {f.name: f.default for f in dataclasses.fields(Sampling)}
    shared = [s for s in SETTINGS if s.name in fields]
    assert len(shared) >= 10
    assert {s.name: s.default for s in shared} == {s.name: fields[s.name] for s in shared}
