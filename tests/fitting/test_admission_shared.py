"""One budget for several models: each knows what is promised elsewhere, and tickets may grow."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from mlxone.fitting.admission import Admission, Refusal, Ticket
from mlxone.fitting.report import LONGEST, Case
from mlxone.fitting.work import Work
from tests.fitting.cases import GB, SMALL, machine, models

CASE = Case(SMALL, machine())


def total(*contexts: int) -> int:
    """Weights, states in full, and the transients of the longest."""
    needs = [CASE.needs(Work(context)) for context in contexts]
    return (
        SMALL.language_bytes
        + sum(n.kv_bytes for n in needs)
        + max((n.transient_bytes for n in needs), default=0)
    )


def test_to_the_last_byte_beside_others():
    beside = 5 * GB
    for budget, fits in ((total(1024) + beside, True), (total(1024) + beside - 1, False)):
        allowed = Admission(CASE, budget, elsewhere=lambda: beside)
        answer = allowed.admit(1000, 24)
        assert bool(answer) is fits
        if isinstance(answer, Refusal):
            assert answer.needed_bytes == total(1024) + beside and answer.can_wait
            assert answer.max_context < 1024
            assert answer.reason.endswith("; it fits once others have finished")


def test_what_would_not_fit_alone_does_not_wait_for_others():
    allowed = Admission(CASE, total(1024), elsewhere=lambda: GB)
    answer = allowed.admit(2000, 2000)
    assert isinstance(answer, Refusal) and not answer.can_wait
    assert isinstance(allowed.never(2000, 2000), Refusal) and allowed.never(1000, 24) is None
    assert not allowed.admit(1000, 24)  # now it does not fit, but some day it may


def test_a_ticket_grows_or_stays_as_it_was():
    beside = [0]
    allowed = Admission(CASE, total(4096), elsewhere=lambda: beside[0])
    ticket = allowed.admit(1000, 24)
    assert isinstance(ticket, Ticket)
    assert allowed.extend(ticket, 1024) is ticket and ticket.context == 2048
    assert allowed.promised_bytes == total(2048)
    beside[0] = 1
    answer = allowed.extend(ticket, 2048)
    assert isinstance(answer, Refusal) and answer.needed_bytes == total(4096) + 1 and answer.can_wait
    assert ticket.context == 2048 and allowed.promised_bytes == total(2048)
    beside[0] = 0
    assert allowed.extend(ticket, 2048) and allowed.promised_bytes == total(4096)
    ticket.release()
    assert allowed.promised_bytes == SMALL.language_bytes


def test_its_own_memory_does_not_stand_in_its_way():
    allowed = Admission(CASE, total(4096))
    first = allowed.admit(2000, 48)
    assert isinstance(first, Ticket) and allowed.extend(first, 2048)


@given(models, st.integers(0, 40 * GB), st.integers(1, 4))
def test_the_longest_is_what_is_never_refused_for_good(facts, beside, rows):
    case = Case(facts, machine())
    allowed = Admission(case, case.needs(Work()).weights_bytes + beside, elsewhere=lambda: 10**15)
    longest = allowed.longest(rows)
    assert 0 <= longest <= (facts.context_length or LONGEST)
    if longest:
        assert allowed.never(longest, 0, rows) is None
    if longest < LONGEST:
        assert isinstance(allowed.never(longest, 1, rows), Refusal)


def test_two_that_ask_each_other_do_not_wait_for_each_other():
    lock, both = threading.RLock(), list[Admission]()
    budget = total(1024, 1024) + SMALL.language_bytes
    both += [
        Admission(CASE, budget, elsewhere=lambda: both[1].promised_bytes, lock=lock),
        Admission(CASE, budget, elsewhere=lambda: both[0].promised_bytes, lock=lock),
    ]
    most: list[int] = []

    def client(allowed: Admission) -> None:
        for _ in range(100):
            answer = allowed.admit(1000, 24)
            if isinstance(answer, Ticket):
                with lock, answer:
                    most.append(sum(each.promised_bytes for each in both))

    threads = [threading.Thread(target=client, args=(allowed,)) for allowed in both * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert most and max(most) <= budget
