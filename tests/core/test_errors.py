from __future__ import annotations

from mlxone.core import errors
from mlxone.core.errors import EXIT_CODES, MlxoneError

FAMILY = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, MlxoneError)]


def test_the_hint_follows_the_message():
    assert str(errors.ModelNotFound("no model 'x'", hint="mlxone get x")) == "no model 'x' (mlxone get x)"
    assert str(errors.ModelNotFound("no model 'x'")) == "no model 'x'"


def test_each_error_has_its_own_code():
    values = [c.code for c in FAMILY]
    assert len(set(values)) == len(values) > 10


def test_those_that_end_a_command_have_their_own_exit_code():
    for_clients = {errors.Overloaded, errors.ShuttingDown, errors.TimedOut, errors.NotPermitted}
    special = {errors.ModelOverBudget, errors.AdapterNotFound}  # of a kind that has one
    kinds = [c for c in FAMILY if c not in for_clients | special]
    assert len({c.exit_code for c in kinds}) == len(kinds)
    assert {c.exit_code for c in for_clients} == {13}


def test_every_exit_code_is_in_the_table_and_every_row_is_used():
    outside_the_family = {0, 1, 130, 141, 143}
    assert set(EXIT_CODES) == {c.exit_code for c in FAMILY} | outside_the_family


def test_no_failure_reads_as_yes_or_no():
    # A script may branch on 0 and 1: they are answers, never accidents.
    assert not {0, 1} & {c.exit_code for c in FAMILY}


def test_statuses_are_http_errors():
    assert all(400 <= c.status < 600 for c in FAMILY)


def test_only_what_no_request_can_help_is_a_500():
    assert {c.__name__ for c in FAMILY if c.status == 500} == {
        "MlxoneError",
        "DamagedModel",
        "BackendMissing",
        "TrainingFailed",
    }
