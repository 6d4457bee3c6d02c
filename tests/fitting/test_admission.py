"""Who may start: at true size by hand, every request in flight counted, and with many threads at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlxone.core.facts import ModelFacts
from mlxone.fitting.admission import Admission, Refusal, Ticket
from mlxone.fitting.machine import Kind
from mlxone.fitting.report import LONGEST, Case, Corrections, Needs
from mlxone.fitting.transient import transient_bytes
from mlxone.fitting.work import Work
from mlxone.formats.config import Config
from mlxone.hub.facts import read_facts
from tests.fitting.cases import GB, SMALL, kinds, machine, models, true_size, with_layers, works
from tests.sparse import write_model

LLAMA, GEMMA, MOE = "Llama-3.3-70B", "gemma-4-12B", "gemma-4-26B-A4B"
# 4 bits and, for each 64, a scale and a bias of 16 bits; norms in 16 bits. The counts are matrices, norms.
WEIGHTS = {
    LLAMA: 70_552_387_584 * 9 // 16 + 1_318_912 * 2,
    MOE: 25_232_441_344 * 9 // 16 + 171_776 * 2,
    GEMMA: 11_906_580_480 * 9 // 16 + 372_480 * 2,
}
KV_8K = {
    LLAMA: 8192 * 80 * 8 * 256 * 2,
    # Sliding layers keep their window's 1024 tokens; the full ones have few, wide heads.
    MOE: (25 * 1024 * 8 * 512 + 5 * 8192 * 2 * 1024) * 2,
    GEMMA: (40 * 1024 * 8 * 512 + 8 * 8192 * 1 * 1024) * 2,
}


def on_disk(folder: Path, name: str) -> ModelFacts:
    write_model(folder / name, name)
    return read_facts(folder / name, Config.read(folder / name))


def admission(facts: ModelFacts, budget: int, **work: object) -> Admission:
    return Admission(Case(facts, machine()), budget, replace(Work(), **work) if work else None)  # type: ignore[arg-type]


def test_mounted_adapters_count_as_weights():
    size, held, bare = 3_000_000, admission(SMALL, 10**9), admission(SMALL, 10**9)
    weights = bare.promised_bytes
    assert held.longest() == bare.longest() > 0
    held.mounted_bytes = size
    assert held.promised_bytes == weights + size
    held.budget = bare.budget = weights + size - 1
    assert bare.longest() > held.longest() == 0  # known before, and asked anew
    beside, alone = (refusal(each.admit(10**6, 1)) for each in (held, bare))
    assert beside.needed_bytes == alone.needed_bytes + size


def ticket(answer: Ticket | Refusal) -> Ticket:
    assert isinstance(answer, Ticket), answer
    return answer


def refusal(answer: Ticket | Refusal) -> Refusal:
    assert isinstance(answer, Refusal), answer
    return answer


def transient(facts: ModelFacts, context: int, rows: int = 1) -> int:
    return transient_bytes(facts, Work(context, rows), "cpu", 2)


# At true size --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [LLAMA, GEMMA, MOE])
def test_to_the_last_byte(tmp_path: Path, name: str):
    facts = on_disk(tmp_path, name)
    needed = WEIGHTS[name] + KV_8K[name] + transient(facts, 8192)
    assert admission(facts, needed).admit(8000, 192)
    refused = refusal(admission(facts, needed - 1).admit(8000, 192))
    assert (refused.needed_bytes, refused.budget_bytes, refused.can_wait) == (needed, needed - 1, False)
    # Buffers grow by 256 tokens: just one step less fits.
    assert 8192 - 256 <= refused.max_context < 8192


def test_what_never_fits_says_so_with_its_numbers(tmp_path: Path):
    facts = on_disk(tmp_path, LLAMA)
    answer = refusal(admission(facts, 48 * GB).admit(30_000, 2768))
    assert not answer.can_wait
    # 39.69 of weights, 10.74 of states, and what reading takes.
    states = 32_768 * 80 * 8 * 256 * 2
    needed = WEIGHTS[LLAMA] + states + transient(facts, 32_768)
    assert answer.needed_bytes == needed
    assert answer.reason == (
        f"30,000 prompt tokens and up to 2,768 more need {needed / 1e9:.2f} GB of the 48.00 GB allowed; "
        f"{answer.max_context:,} tokens in all would fit"
    )
    assert refusal(admission(facts, 24 * GB).admit(1, 1)).max_context == 0


def test_beyond_the_models_context(tmp_path: Path):
    facts = on_disk(tmp_path, GEMMA)
    roomy = admission(facts, 10**15)
    assert roomy.admit(262_000, 144)
    answer = refusal(roomy.admit(262_001, 144))
    assert answer.reason == (
        "262,001 prompt tokens and up to 144 more are beyond the model's context of 262,144"
    )
    assert (answer.max_context, answer.can_wait) == (262_144, False)


# Together ------------------------------------------------------------------------------------


def room_for(facts: ModelFacts, name: str, count: int) -> int:
    return WEIGHTS[name] + count * KV_8K[name] + transient(facts, 8192, count)


@pytest.mark.parametrize("name", [LLAMA, GEMMA, MOE])
def test_each_fits_alone_and_all_together_do_not(name: str):
    facts = true_size(name)
    budget = room_for(facts, name, 3)
    allowed = admission(facts, budget)
    first, second, third = (ticket(allowed.admit(4096, 4096)) for _ in range(3))
    assert (allowed.in_flight, allowed.promised_bytes) == (3, budget)
    answer = refusal(allowed.admit(4096, 4096))
    assert answer.can_wait and answer.reason.endswith("; it fits once others have finished")
    assert answer.needed_bytes == room_for(facts, name, 4)
    assert (allowed.in_flight, allowed.promised_bytes) == (3, budget)  # who is refused takes nothing
    second.release()
    fourth = ticket(allowed.admit(4096, 4096))
    assert not allowed.admit(1, 1)
    for done in (first, third, fourth):
        done.release()
    assert (allowed.in_flight, allowed.promised_bytes) == (0, WEIGHTS[name])


def test_one_byte_less_is_one_request_less():
    facts = true_size(GEMMA)
    allowed = admission(facts, room_for(facts, GEMMA, 3) - 1)
    assert [bool(allowed.admit(4096, 4096)) for _ in range(4)] == [True, True, False, False]


def test_can_wait_only_where_waiting_helps():
    facts = true_size(GEMMA)
    allowed = admission(facts, room_for(facts, GEMMA, 2))
    assert not refusal(allowed.admit(60_000, 0, rows=2)).can_wait  # nobody is there to wait for
    held = ticket(allowed.admit(4096, 0))
    later, never = refusal(allowed.admit(8192, 0, rows=2)), refusal(allowed.admit(60_000, 0, rows=2))
    assert (later.can_wait, never.can_wait) == (True, False)
    held.release()
    assert allowed.admit(8192, 0, rows=2)


def test_releasing_twice_gives_back_once():
    facts = true_size(GEMMA)
    allowed = admission(facts, room_for(facts, GEMMA, 2))
    first, _ = ticket(allowed.admit(8192, 0)), ticket(allowed.admit(8192, 0))
    first.release()
    first.release()
    assert allowed.in_flight == 1
    third = ticket(allowed.admit(8192, 0))
    first.release()  # not even when another one has taken its room
    assert allowed.in_flight == 2
    assert not allowed.admit(8192, 0)
    third.release()


def test_a_ticket_ends_with_its_block_whatever_happens():
    allowed = admission(SMALL, GB)
    with ticket(allowed.admit(100, 28)) as held:
        assert (allowed.in_flight, held.context, held.rows) == (1, 128, 1)
    assert allowed.in_flight == 0
    with suppress(ZeroDivisionError), ticket(allowed.admit(100, 28)):
        raise ZeroDivisionError
    assert allowed.in_flight == 0


def test_rows_count_each():
    facts = true_size(MOE)
    budget = WEIGHTS[MOE] + 4 * KV_8K[MOE] + transient(facts, 8192, 4)
    allowed = admission(facts, budget)
    four = ticket(allowed.admit(8000, 192, rows=4))
    assert (allowed.in_flight, allowed.promised_bytes) == (4, budget)
    four.release()
    assert allowed.admit(8000, 192, rows=3)
    answer = refusal(allowed.admit(8000, 192, rows=2))
    assert " in 2 rows need " in answer.reason and answer.can_wait


def test_the_longest_transient_counts_once():
    """Prompts are read one after the other."""
    facts = true_size(LLAMA)
    allowed = admission(facts, 200 * GB)
    for context in (1024, 32_768, 8192):
        assert allowed.admit(context, 0)
    states = (1024 + 32_768 + 8192) * 80 * 8 * 256 * 2
    assert allowed.promised_bytes == WEIGHTS[LLAMA] + states + transient(facts, 32_768, 3)


def test_the_work_says_how_keys_are_kept_and_prompts_are_read():
    facts = true_size(LLAMA)
    plain, quarter = admission(facts, 200 * GB), admission(facts, 200 * GB, kv_quant="4")
    small, seeing = admission(facts, 200 * GB, prefill_step=128), admission(true_size(GEMMA), 0, vision=True)
    for each in (plain, quarter, small):
        assert each.admit(8192, 0)
    # 4 bits and 4 bytes for each 64, in place of 16 bits.
    assert plain.promised_bytes - quarter.promised_bytes == pytest.approx(KV_8K[LLAMA] * 23 / 32, rel=0.02)
    assert small.promised_bytes < plain.promised_bytes
    assert seeing.promised_bytes == WEIGHTS[GEMMA] + 8 * 4 * 1152**2 * 2


def test_what_was_measured_counts():
    corrected = Admission(Case(SMALL, machine(), corrections=Corrections(transient=3.0)), GB)
    plain = admission(SMALL, GB)
    for each in (plain, corrected):
        assert each.admit(512, 0)
    assert corrected.promised_bytes - plain.promised_bytes == 2 * transient(SMALL, 512)


# Properties ----------------------------------------------------------------------------------

requests = st.tuples(st.integers(1, 50_000), st.integers(0, 50_000), st.integers(1, 4))


def promised(case: Case, work: Work, held: list[tuple[int, int]]) -> int:
    """The same sum, written down anew."""
    total = case.needs(work).weights_bytes
    total += sum(case.needs(replace(work, context=c, rows=r)).kv_bytes for c, r in held)
    if held:
        most = replace(work, context=max(c for c, _ in held), rows=sum(r for _, r in held))
        total += case.needs(most).transient_bytes
    return total


@given(models, works, kinds, st.integers(0, 40 * GB), st.lists(st.integers(0, 3) | requests, max_size=12))
def test_never_more_than_the_budget(facts: ModelFacts, work: Work, kind: Kind, beside: int, steps: list):
    case = Case(facts, machine(kind=kind))
    budget = case.needs(work).weights_bytes + beside
    allowed = Admission(case, budget, work)
    held: list[Ticket] = []
    for step in steps:
        if isinstance(step, int):
            for gone in held[step : step + 1]:
                held.remove(gone)
                gone.release()
            continue
        prompt, more, rows = step
        context = prompt + more
        needed = promised(case, work, [*((t.context, t.rows) for t in held), (context, rows)])
        answer = allowed.admit(prompt, more, rows)
        within = facts.context_length is None or context <= facts.context_length
        assert bool(answer) is (needed <= budget and within)
        if isinstance(answer, Ticket):
            held.append(answer)
        else:
            alone = promised(case, work, [(context, rows)])
            assert answer.needed_bytes == needed
            assert answer.can_wait is (within and bool(held) and alone <= budget)
            assert "\n" not in answer.reason
        assert allowed.in_flight == sum(t.rows for t in held)
        assert allowed.promised_bytes == promised(case, work, [(t.context, t.rows) for t in held]) <= budget


@given(models, works, kinds, st.lists(requests, max_size=3), st.integers(0, 40 * GB), st.integers(1, 4))
def test_the_context_a_refusal_names_is_the_largest_admitted(facts, work, kind, others, beside, rows):
    case = Case(facts, machine(kind=kind))
    allowed = Admission(case, case.needs(work).weights_bytes + beside, work)
    for other in others:
        allowed.admit(*other)
    answer = allowed.admit(facts.context_length or 10**9, 1, rows)
    assume(not answer)
    longest = refusal(answer).max_context
    assert 0 <= longest <= (facts.context_length or LONGEST)
    if longest < LONGEST:
        assert not allowed.admit(longest + 1, 0, rows)
    if longest:
        assert allowed.admit(longest - 1, 1, rows)


# Threads -------------------------------------------------------------------------------------


class Watched(Case):
    """Lets other threads in wherever a sum is worked out, so that an unguarded moment is met."""

    def needs(self, work: Work) -> Needs:
        threading.Event().wait(0)
        return super().needs(work)


@pytest.fixture
def nervous() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_at_once_never_exceed_the_budget(nervous: None):
    facts = with_layers(*SMALL.layers)
    case = Watched(facts, machine())
    budget = promised(case, Work(), [(1024, 1)] * 3)
    allowed = Admission(case, budget)
    excess: list[int] = []
    refused: list[Refusal] = []
    begin, answered = threading.Barrier(8), threading.Barrier(8)

    def client() -> None:
        begin.wait()
        for turn in range(30):
            answer = allowed.admit(1000, 24)
            if turn == 0:
                answered.wait()  # nobody gives back before all have asked: five of eight must be refused
            if isinstance(answer, Refusal):
                refused.append(answer)
                continue
            with answer:
                if allowed.in_flight > 3 or allowed.promised_bytes > budget:
                    excess.append(allowed.in_flight)

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert excess == []
    assert len(refused) >= 5 and all(answer.can_wait for answer in refused)
    assert (allowed.in_flight, allowed.promised_bytes) == (0, facts.language_bytes)
