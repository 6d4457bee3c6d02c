from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models

from mlxone.core.errors import DamagedModel
from mlxone.text import stages, tokenizer
from mlxone.text.decoder import DecoderPlan
from tests.text.builders import BYTES, STYLES, byte_level, sentencepiece, wrap


@cache
def made(style: str) -> tokenizer.Tokenizer:
    return wrap(STYLES[style]())


def streamed(model: tokenizer.Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    stream = model.stream(skip_special=skip_special)
    return [*(stream.add(id) for id in ids), stream.finish()]


def ids_of(model: tokenizer.Tokenizer) -> st.SearchStrategy[list[int]]:
    known = st.integers(0, model.vocab_size - 1)
    odd = st.sampled_from([-1, model.vocab_size, model.vocab_size + 7, 2**31, 2**32, 2**70])
    return st.lists(st.one_of(known, known, known, odd), max_size=24)


@pytest.mark.parametrize("style", STYLES)
@given(data=st.data(), skip=st.booleans())
@settings(max_examples=150)
def test_a_stream_equals_the_one_shot_decode(style: str, data: st.DataObject, skip: bool) -> None:
    model = made(style)
    ids = data.draw(ids_of(model))
    assert "".join(streamed(model, ids, skip_special=skip)) == model.decode(ids, skip_special=skip)


@given(st.lists(st.integers(0, 255), max_size=12), st.booleans())
def test_any_bytes_one_by_one(data: list[int], as_letters: bool) -> None:
    """Every way bytes can fail to be UTF-8, through both ways of writing them as tokens."""
    model = made("byte level" if as_letters else "llama")
    letter_of = {byte: letter for letter, byte in stages._BYTE_OF.items()}
    ids = [model._library.token_to_id(letter_of[byte] if as_letters else BYTES[byte]) for byte in data]
    assert "".join(streamed(model, ids)) == model.decode(ids)


steps = st.one_of(
    st.builds(decoders.ByteLevel),
    st.builds(decoders.ByteFallback),
    st.builds(decoders.Fuse),
    st.builds(
        decoders.Replace,
        st.sampled_from(["▁", "ab", Regex("a+"), Regex("▁|b"), Regex("x*")]),
        st.sampled_from([" ", "", "ab"]),
    ),
    st.builds(decoders.Strip, st.sampled_from([" ", "a"]), st.integers(0, 2), st.just(0)),
    st.builds(decoders.Metaspace, prepend_scheme=st.sampled_from(["always", "never", "first"])),
    st.builds(decoders.WordPiece, cleanup=st.booleans()),
    st.builds(decoders.BPEDecoder, st.sampled_from(["</w>", ""])),
    st.builds(decoders.CTC),
)
chains = st.recursive(
    steps, lambda inner: st.builds(decoders.Sequence, st.lists(inner, max_size=4)), max_leaves=6
)
pieces = st.one_of(
    st.text(st.sampled_from("ab▁ é.<x"), max_size=4),
    st.sampled_from(
        [
            "<0xE2>",
            "<0x96>",
            "<0x81>",
            "<0x+5>",
            "<0x 5>",
            "<0xZZ>",
            "<0xé>",
            "a</w>",
            "##b",
            "Ã",
            "©",
            "<pad>",
            "|",
        ]
    ),
)


@given(chains, st.lists(pieces, unique=True, min_size=1, max_size=6), st.data())
@settings(max_examples=1000)
def test_every_chain_of_steps_streams_to_the_same_text(
    chain: Any, texts: list[str], data: st.DataObject
) -> None:
    library = Tokenizer(models.WordLevel({text: id for id, text in enumerate(texts)}, texts[0]))
    library.decoder = chain
    model = wrap(library)
    ids = data.draw(st.lists(st.integers(0, len(texts)), max_size=8))
    assert "".join(streamed(model, ids)) == model.decode(ids)


@pytest.mark.parametrize(
    ("steps", "texts"),
    [
        ([decoders.Fuse(), decoders.Replace("ab", "x")], ["a", "b"]),
        ([decoders.Fuse(), decoders.Replace(Regex("a+"), "x")], ["a", "aa"]),
        ([decoders.Fuse(), decoders.Strip("a", 2, 0), decoders.Fuse()], ["a", "ba", "aa"]),
        ([decoders.Fuse(), decoders.Strip("a", 0, 1)], ["ba", "ca"]),
        ([decoders.Fuse(), decoders.Metaspace()], ["a▁", "▁b"]),
        ([decoders.ByteLevel(), decoders.WordPiece()], ["Ã", "©"]),
        ([decoders.ByteFallback(), decoders.Fuse(), decoders.ByteFallback()], ["<0x3C>", "0x41>"]),
    ],
    ids=str,
)
def test_steps_after_a_join_see_one_long_token(steps: list[Any], texts: list[str]) -> None:
    library = Tokenizer(models.WordLevel({text: id for id, text in enumerate(texts)}, texts[0]))
    library.decoder = decoders.Sequence(steps)
    ids = [*range(len(texts)), *range(len(texts))]
    assert "".join(streamed(wrap(library), ids)) == wrap(library).decode(ids)


@pytest.mark.parametrize("style", STYLES)
def test_no_style_waits_for_the_end(style: str) -> None:
    """Half a character, a run of bytes or one word may wait; the rest is out at once."""
    model = made(style)
    assert not any(isinstance(stage, stages.Whole) for stage in model._plan.chain())
    letters = [model._library.token_to_id(letter) for letter in "abcdefgh"]
    assert len("".join(streamed(model, letters)[:-1]).replace(" ", "")) >= 7


@given(st.data())
def test_only_half_a_character_is_held_back(data: st.DataObject) -> None:
    model = made("byte level")
    stream, out, so_far = model.stream(), "", []
    for id in data.draw(ids_of(model)):
        so_far.append(id)
        out += stream.add(id)
        whole = model.decode(so_far)
        assert whole.startswith(out)
        assert whole[len(out) :] in ("", "\ufffd")


def test_a_character_in_parts_comes_out_whole() -> None:
    model = wrap(byte_level())
    ids = model.encode("x👩‍🚀é")
    assert len(ids) > 3
    assert [text for text in streamed(model, ids) if text] == ["x", "👩", "\u200d", "🚀", "é"]


def test_spaces_survive() -> None:
    for style in ("byte level", "llama", "gemma"):
        model = made(style)
        text = "a  b   the a "
        assert "".join(streamed(model, model.encode(text))) == text


def test_only_the_very_first_space_is_the_tokenizers_own() -> None:
    model = made("llama")
    the = model._library.token_to_id("▁the")
    unknown, special = model.vocab_size + 1, model.eos_id
    assert special is not None
    assert streamed(model, [unknown, special, the, the]) == ["", "", "the", " the", ""]


def test_special_tokens_are_silent_or_written() -> None:
    model = made("byte level")
    bos, added = model.bos_id, model._library.token_to_id("<tool>")
    assert bos is not None
    assert streamed(model, [bos, added]) == ["", "<tool>", ""]
    assert streamed(model, [bos, added], skip_special=False) == ["<s>", "<tool>", ""]


def test_streams_do_not_share_what_they_hold() -> None:
    model = wrap(sentencepiece())
    half = model._library.token_to_id("<0xC3>")
    first, second = model.stream(), model.stream()
    assert first.add(half) == ""
    assert second.finish() == ""
    assert first.finish() == "\ufffd"


def test_work_per_token_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed to the library stays one token, however long the text already is."""
    seen: list[int] = []

    class Watched:
        def __init__(self, real: Any) -> None:
            self.real = real

        def decode(self, tokens: list[str]) -> str:
            seen.append(sum(map(len, tokens)))
            return str(self.real.decode(tokens))

    real = DecoderPlan.chain

    def watched(plan: DecoderPlan, *, started: bool = False) -> list[stages.Stage]:
        chain = real(plan, started=started)
        for stage in chain:
            if hasattr(stage, "_decoder"):
                stage._decoder = Watched(stage._decoder)
        return chain

    monkeypatch.setattr(DecoderPlan, "chain", watched)
    model = made("llama")
    the = model._library.token_to_id("▁the")
    assert "".join(streamed(model, [the] * 500)) == "the" + " the" * 499
    assert len(seen) == 500
    assert max(seen) == len("▁the")


def test_a_panic_of_the_library_is_our_error(capfd: pytest.CaptureFixture[str]) -> None:
    """This step panics in Rust on a token shorter than what it strips."""
    library = Tokenizer(models.WordLevel({" ": 0}, " "))
    library.decoder = decoders.Strip(" ", 1, 1)
    with pytest.raises(DamagedModel, match="cannot decode"):
        wrap(library).decode([0])
    with pytest.raises(DamagedModel, match="cannot decode"):
        wrap(library).stream().add(0)
    capfd.readouterr()


def test_a_special_tokens_text_is_skipped_under_any_id() -> None:
    library = Tokenizer(models.Unigram([("<unk>", 0.0), ("b", -1.0), ("c", -1.0), ("b", -2.0)], unk_id=0))
    library.add_special_tokens([AddedToken("b", special=True)])
    assert wrap(library).special_ids == {3}
    assert wrap(library).decode([1, 2, 3]) == "c"
    assert streamed(wrap(library), [1, 2, 3]) == ["", "c", "", ""]


@pytest.mark.parametrize(
    ("style", "token", "text"),
    [
        ("llama", "▁the", " the"),
        ("llama", "<0xC3>", "\ufffd"),
        ("llama", "<0x41>", "A"),
        ("metaspace always", "▁a", " a"),
        ("wordpiece", "a", " a"),
        ("wordpiece", "##a", "a"),
        ("byte level", "Ġt", " t"),
        ("byte level", "</s>", "</s>"),
        ("word ends", "the</w>", "the"),
    ],
)
def test_one_token_keeps_its_leading_space(style: str, token: str, text: str) -> None:
    model = made(style)
    assert model.token_text(model._library.token_to_id(token)) == text


def test_an_unknown_token_has_no_text() -> None:
    assert made("llama").token_text(10**6) == ""
    assert made("llama").token_text(-1) == ""
