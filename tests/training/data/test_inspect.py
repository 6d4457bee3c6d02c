from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxone.core.errors import DataError
from mlxone.training.data.inspect import histogram, inspect_data, lengths_of, spans
from mlxone.training.data.source import Data, read
from tests.fakes import ByteTokenizer
from tests.text.builders import STYLES, wrap
from tests.training.data.kit import MODEL, STRICT, USER, words

BYTES = words(ByteTokenizer(), vocab_size=258)
CHAT = {"messages": [USER, MODEL]}
LENGTHS = st.lists(st.integers(1, 5_000), min_size=1)


def data(*values: dict[str, Any], share: float = 0) -> Data:
    return read(list(values), valid_share=share)


def test_a_chat_set_is_counted_and_shown():
    long = {"messages": [USER, {"role": "assistant", "content": "x" * 100}]}
    seen = inspect_data(data(CHAT, long, CHAT), BYTES, scope="response", max_length=60, show=1)
    [train] = seen.splits
    whole = len("<|user|>Hi</s><|assistant|>Hello.</s>")
    assert (train.name, train.rows, train.samples, train.truncated) == ("train", 3, 3, 1)
    assert (train.lengths.least, train.lengths.median, train.lengths.most) == (whole, whole, whole + 94)
    assert (train.lengths.total, train.tokens) == (3 * whole + 94, 2 * whole + 60)
    prompt = whole - len("Hello.</s>")
    assert train.scored == train.tokens - 3 * prompt
    assert train.scored_share == train.scored / train.tokens
    [example] = seen.examples
    assert example.spans == (("<|user|>Hi</s><|assistant|>", False), ("Hello.</s>", True))
    assert (example.place, example.kind) == ("row 1", "sample")
    assert (seen.format, seen.scope, seen.max_length) == ("messages", "response", 60)
    assert seen.notes[0] == "the data: messages, 3 rows"


def test_each_split_has_its_report():
    seen = inspect_data(data(*[{"text": "ab"}] * 10, share=0.2), BYTES)
    assert [(split.name, split.rows) for split in seen.splits] == [("train", 8), ("valid", 2)]
    assert [example.spans for example in seen.examples] == [(("<s>", False), ("ab</s>", True))] * 2


def test_a_pair_is_shown_from_both_sides():
    [chosen, rejected] = inspect_data(
        data({"prompt": "Q", "chosen": "yes", "rejected": "no"}), BYTES
    ).examples
    prompt = ("<|user|>Q</s><|assistant|>", False)
    assert (chosen.kind, chosen.spans) == ("chosen", (prompt, ("yes</s>", True)))
    assert (rejected.kind, rejected.spans) == ("rejected", (prompt, ("no</s>", True)))


def test_what_the_template_refuses_is_counted():
    strict = words(ByteTokenizer(), STRICT)
    seen = inspect_data(data(CHAT, {"messages": [USER, USER]}), strict)
    assert seen.splits[0].skipped == {"refused by the chat template": 1}
    with pytest.raises(DataError, match="none of the 1 rows"):
        inspect_data(data({"messages": [USER, USER]}), strict)


@given(LENGTHS)
def test_a_histogram_has_every_length_once(lengths: list[int]):
    buckets = histogram(lengths)
    assert 1 <= len(buckets) <= 12
    assert sum(bucket.count for bucket in buckets) == len(lengths)
    for bucket in buckets:
        assert bucket.count == sum(bucket.least <= length <= bucket.most for length in lengths)
    assert all(one.most + 1 == other.least for one, other in zip(buckets, buckets[1:], strict=False))
    assert buckets[0].count and buckets[-1].count


def test_a_histogram_is_as_fine_as_it_may_be():
    assert [bucket.least for bucket in histogram([1_000, 1_011])] == list(range(1_000, 1_012))
    assert [bucket.least for bucket in histogram([1_000, 1_012])] == list(range(1_000, 1_013, 2))


@given(LENGTHS)
def test_percentiles_are_lengths_that_so_many_do_not_exceed(lengths: list[int]):
    seen = lengths_of(lengths)
    for value, share in ((seen.median, 0.5), (seen.p95, 0.95)):
        assert value in lengths
        assert sum(length <= value for length in lengths) >= share * len(lengths)
        assert sum(length < value for length in lengths) < share * len(lengths)
    assert (seen.total, seen.least, seen.most) == (sum(lengths), min(lengths), max(lengths))


@pytest.mark.parametrize("style", ["byte level", "llama", "gemma", "metaspace always"])
@given(text=st.text("ab é日👩\u200d🚀 ", min_size=1), cut=st.integers(0, 30))
def test_spans_join_to_the_text_whatever_is_cut_in_two(style: str, text: str, cut: int):
    tokenizer = wrap(STYLES[style]())
    ids = tokenizer.encode("<s>" + text) + [tokenizer.eos_id]
    shown = spans(ids, cut, tokenizer)
    assert "".join(piece for piece, _ in shown) == tokenizer.decode(ids, skip_special=False)
    assert [scored for _, scored in shown] in ([False], [True], [False, True])


def test_a_character_goes_to_the_token_that_completes_it():
    tokenizer: Any = ByteTokenizer()
    assert spans(tuple("aé".encode()), 2, tokenizer) == (("a", False), ("é", True))
    assert spans(tuple("aé".encode()[:2]), 1, tokenizer) == (("a", False), ("\ufffd", True))
