"""Models in memory: they share one budget, make room for each other, and are really gone when put away."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from mlxone.backend.arrays import mx
from mlxone.core.errors import ModelOverBudget, Overloaded, UsageError
from mlxone.core.words import ChatRequest
from mlxone.fitting.admission import Ticket
from mlxone.fitting.work import Work
from mlxone.hub import in_use
from mlxone.kv.state import ModelState
from mlxone.service import admission
from mlxone.service.answer import answer
from mlxone.service.memory import Shared
from mlxone.service.options import Options
from mlxone.service.shelf import AT_HAND, Loaded, Shelf, check_context, without_weights
from tests.engine import tiny
from tests.service.clients import Clock, allow, needed, offer_of
from tests.service.rig import Stage, write_folder

pytestmark = pytest.mark.usefixtures("own_limits")

LARGE = {**tiny.PLAIN, "hidden_size": 64, "intermediate_size": 256}


# One -----------------------------------------------------------------------------------------


def test_loaded_once_and_found_again(stage: Stage):
    shelf, offer = Shelf(Options()), offer_of(stage.model())
    first = shelf.take(offer)
    assert shelf.take(offer) is first is shelf.at_hand(offer)
    assert stage.loads == ["tiny"] and first.model.name == "tiny"
    assert first.longest == 512 and first.weights_bytes > 100_000


def test_put_away_for_good(tmp_path: Path):
    """With its weights, what was kept of its prompts, and the word that it is in use."""
    offer = offer_of(write_folder(tmp_path / "m", LARGE))
    shelf = Shelf(Options())
    gc.collect()
    before = mx.get_active_memory()
    loaded = shelf.bring_in(offer)
    assert [use.what for use in in_use.using(offer.path)] == ["serve"]
    request = ChatRequest(ids=tuple(range(5, 40)), max_tokens=3)
    assert list(answer(loaded.model, request, Shared(shelf.prefixes, offer.key)))
    assert mx.get_active_memory() - before > loaded.weights_bytes / 2 and shelf.prefixes.bytes
    gone = weakref.ref(loaded.model.decoder)
    words, ledger = loaded.words, shelf.ledger
    assert ledger.promised_bytes >= loaded.weights_bytes
    del loaded
    shelf.put_away(offer)
    assert gone() is None
    assert mx.get_active_memory() - before < 1_000
    assert shelf.prefixes.bytes == ledger.promised_bytes == 0
    assert in_use.using(offer.path) == [] and shelf.at_hand(offer) is None
    assert words.tokenizer.encode("Hi") and words.context_length == 512  # without a weight
    shelf.put_away(offer)  # twice does no harm


def test_who_answers_is_not_put_away(stage: Stage):
    shelf, offer = Shelf(Options()), offer_of(stage.model())
    loaded = shelf.take(offer)
    loaded.at_work = 1
    with pytest.raises(Overloaded, match="tiny is answering"):
        shelf.put_away(offer)
    assert not shelf.is_idle and shelf.at_hand(offer)


def test_too_large_even_alone(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    shelf, offer = Shelf(Options(memory_budget=0.001)), offer_of(stage.model(config=LARGE))
    monkeypatch.setattr(admission, "_budget", lambda machine, given: 50_000)
    with pytest.raises(ModelOverBudget, match="tiny needs .* and 50 kB may be used") as refused:
        shelf.take(offer)
    assert refused.value.status == 400 and refused.value.code == "model_over_budget"
    assert refused.value.details["needed_bytes"] > refused.value.details["budget_bytes"] == 50_000
    assert stage.loads == [] and in_use.using(offer.path) == []  # nothing was loaded to find out


def test_what_cannot_be_loaded_leaves_nothing_behind(stage: Stage):
    def breaks(model: object) -> None:
        raise RuntimeError("broken")

    shelf, offer = Shelf(Options()), offer_of(stage.model())
    stage.dress = breaks
    with pytest.raises(RuntimeError):
        shelf.take(offer)
    assert shelf.at_hand(offer) is None and in_use.using(offer.path) == []
    assert shelf.ledger.promised_bytes == 0


def test_a_context_beyond_the_models_own(stage: Stage):
    loaded = Shelf(Options()).take(offer_of(stage.model()))
    check_context(loaded, 512)
    with pytest.raises(UsageError, match=r"ctx_size 513 .* tiny: 512"):
        check_context(loaded, 513)


def test_words_of_a_few_are_kept_at_hand(stage: Stage):
    clock = Clock()
    shelf = Shelf(Options(), clock=clock)
    offers = [offer_of(stage.model(f"m{n}")) for n in range(AT_HAND + 3)]
    shelf.bring_in(offers[0])  # counted, and so not one of them
    for offer in offers[1:]:
        clock.now += 1
        shelf.take(offer)
        assert shelf.at_hand(offer)
    assert [one.offer for one in shelf.loaded] == [offers[0], *offers[-AT_HAND:]]
    shelf.put_all_away()
    assert not any(in_use.using(offer.path) for offer in offers)


def test_one_that_makes_trouble_keeps_no_other(stage: Stage):
    shelf, offers = Shelf(Options()), [offer_of(stage.model(name)) for name in "abc"]
    for offer in offers:
        shelf.take(offer)
    shelf.loaded[1].held.callback(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shelf.put_all_away()
    assert not shelf.loaded and not any(in_use.using(offer.path) for offer in offers)


def test_words_without_weights(stage: Stage):
    loaded = Shelf(Options()).take(offer_of(stage.model()))
    words = without_weights(loaded.model)
    assert (words.vocab_size, words.context_length) == (320, 512)
    assert not hasattr(words.decoder, "blocks") and words.tokenizer is loaded.model.tokenizer


# Several -------------------------------------------------------------------------------------


def test_the_least_recently_used_makes_room(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    offers = [offer_of(stage.model(name)) for name in "abc"]
    size = needed(Shelf(Options()), *offers[:2])
    allow(monkeypatch, lambda: size)
    shelf = Shelf(Options(), clock=clock)
    for offer in (offers[0], offers[1], offers[0]):
        clock.now += 1
        shelf.bring_in(offer)
    clock.now += 1
    shelf.bring_in(offers[2])
    assert [one.offer.id for one in shelf.loaded] == ["a", "c"]
    assert shelf.ledger.promised_bytes <= size


def test_who_has_work_stays_and_the_other_is_told_to_wait(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    offers = [offer_of(stage.model(name)) for name in "ab"]
    size = needed(Shelf(Options()), offers[0])
    allow(monkeypatch, lambda: size)
    shelf = Shelf(Options())
    shelf.bring_in(offers[0]).at_work = 1
    with pytest.raises(Overloaded, match="b does not fit beside what is at work"):
        shelf.bring_in(offers[1])
    assert shelf.at_hand(offers[0])


def test_at_the_start_as_many_as_fit_together(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    offers = [offer_of(stage.model(name)) for name in "abc"]
    size = needed(Shelf(Options()), *offers[:2])
    allow(monkeypatch, lambda: size)
    shelf = Shelf(Options())
    for offer in offers:
        shelf.bring_in_if_room(offer)
    assert [one.offer.id for one in shelf.in_memory] == ["a", "b"] and shelf.ledger.promised_bytes <= size


def test_kept_prompts_give_way_before_a_model_does(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    offers = [offer_of(stage.model(name)) for name in "ab"]
    size = needed(Shelf(Options()), *offers, context=512) + 6_000
    allow(monkeypatch, lambda: size)
    shelf = Shelf(Options())
    for offer in offers:
        loaded = shelf.bring_in(offer)
    for first in range(5, 60):
        ids = [first, *range(5, 300)]
        shelf.prefixes.put(offers[0].key, ids, held_state(loaded, ids))
    kept = shelf.prefixes.bytes
    assert kept > 6_000 and shelf.ledger.promised_bytes <= size
    ticket = shelf.admit(loaded, lambda: loaded.admission.admit(400, 112))
    assert isinstance(ticket, Ticket) and len(shelf.loaded) == 2
    assert shelf.ledger.promised_bytes <= size and 0 < shelf.prefixes.bytes <= 6_000
    # What is promised cannot be taken by more that is kept; what is given back, can.
    for back in (False, True):
        if back:
            shelf.give_back(ticket)
        for first in range(100, 103):
            ids = [first, *range(5, 300)]
            shelf.prefixes.put(offers[0].key, ids, held_state(loaded, ids))
        assert (shelf.prefixes.bytes > 6_000) == back and shelf.ledger.promised_bytes <= size


def test_nothing_gives_way_where_all_of_it_would_not_do(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    offers = [offer_of(stage.model(name)) for name in "abc"]
    size = [needed(Shelf(Options()), *offers, context=512) + 10**6]
    allow(monkeypatch, lambda: size[0])
    shelf = Shelf(Options())
    for offer in offers:
        loaded = shelf.bring_in(offer)
    ids = list(range(5, 300))
    shelf.prefixes.put(offers[0].key, ids, held_state(loaded, ids))
    works = shelf.loaded[1]
    works.at_work, kept = 1, shelf.prefixes.bytes
    parked = works.admission.admit(400, 112)
    needs = loaded.admission.case.needs(Work(512))
    asking = needs.kv_bytes + needs.transient_bytes
    spare = kept + shelf.loaded[0].weights_bytes
    assert isinstance(parked, Ticket) and kept and asking > 0
    # One byte too little, with all that could go; then just enough.
    for extra, fits in ((-1, False), (0, True)):
        size[0] = shelf.ledger.promised_bytes + asking - spare + extra
        shelf.ledger.measure()
        answer = shelf.admit(loaded, lambda: loaded.admission.admit(400, 112))
        assert isinstance(answer, Ticket) == fits
        assert (len(shelf.loaded), shelf.prefixes.bytes > 0) == ((2, False) if fits else (3, True))


def held_state(loaded: Loaded, ids: list[int]) -> ModelState:
    state = loaded.model.new_state()
    loaded.model.decoder.hidden(mx.array([ids]), state)
    return state


# Nobody came ---------------------------------------------------------------------------------


def test_unused_for_so_long(stage: Stage):
    clock = Clock()
    shelf = Shelf(Options(idle_unload=60), clock=clock)
    a, b = (offer_of(stage.model(name)) for name in "ab")
    shelf.take(a)
    clock.now = 30
    shelf.take(b)
    assert shelf.put_idle_away(lambda offer: False) == 30
    clock.now = 59.9
    assert shelf.put_idle_away(lambda offer: False) == pytest.approx(0.1)
    clock.now = 60
    assert shelf.put_idle_away(lambda offer: False) == 30
    assert [one.offer.id for one in shelf.loaded] == ["b"]
    clock.now = 100
    assert shelf.put_idle_away(lambda offer: offer == b) == 60  # somebody waits for it
    clock.now = 159
    held = shelf.at_hand(b)
    assert held is not None
    held.at_work = 1
    clock.now = 200
    assert shelf.put_idle_away(lambda offer: False) == 60
    held.at_work = 0
    clock.now = 260
    assert shelf.put_idle_away(lambda offer: False) is None and not shelf.loaded


@pytest.mark.parametrize("limit", [0, 1e-9])
def test_what_is_at_work_is_never_unused(stage: Stage, limit: float):
    """Not even where the operator's time is over at once; and no time is never."""
    clock = Clock()
    shelf = Shelf(Options(idle_unload=limit), clock=clock)
    loaded = shelf.take(offer_of(stage.model()))
    loaded.at_work = 1
    clock.now = 5
    shelf.put_idle_away(lambda offer: False)
    assert shelf.loaded == (loaded,)
    loaded.at_work = 0
    clock.now = 10
    shelf.put_idle_away(lambda offer: False)
    assert bool(shelf.loaded) == (limit == 0)


def test_without_the_option_nothing_goes(stage: Stage):
    clock = Clock()
    shelf = Shelf(Options(), clock=clock)
    shelf.take(offer_of(stage.model()))
    clock.now = 1e9
    assert shelf.put_idle_away(lambda offer: False) is None and shelf.loaded
