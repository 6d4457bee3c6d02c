from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlx_lm.tuner.datasets import ChatDataset, CompletionsDataset, TextDataset
from transformers import PreTrainedTokenizerFast

from mlxone.core.errors import DataError, UsageError
from mlxone.text.template import ChatTemplate
from mlxone.text.tokenizer import Tokenizer
from mlxone.training.data.encode import encode as encode_typed
from mlxone.training.data.encode import fingerprint, watched
from mlxone.training.samples import Pair, Sample
from tests.fakes import EOS, ByteTokenizer
from tests.text.builders import byte_level, sentencepiece, write
from tests.text.templates import CONVERSATIONS, TEMPLATES, TOOLS
from tests.training.data.kit import MODEL, STRICT, USER, rows, words

encode: Any = encode_typed  # samples or pairs: each test knows which
BYTES = words(ByteTokenizer(), vocab_size=258)
CONFIG: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}


class Peer:
    """Our words and transformers' own, from one folder."""

    def __init__(self, folder: Path) -> None:
        self.theirs: Any = PreTrainedTokenizerFast.from_pretrained(str(folder))
        self.tokenizer = Tokenizer.load(folder)
        self.ours = words(self.tokenizer, None)
        self.ours.template = ChatTemplate.load(folder, self.tokenizer)

    def use(self, template: str) -> None:
        self.theirs.chat_template = template
        self.ours.template = ChatTemplate(template, **CONFIG)


@pytest.fixture(scope="module", params=["byte level", "sentencepiece"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    library = {"byte level": byte_level, "sentencepiece": sentencepiece}[request.param]()
    return Peer(write(tmp_path_factory.mktemp("words"), library, CONFIG))


@pytest.fixture(scope="module")
def starter(starter_folder: Path) -> Peer:
    return Peer(starter_folder)


def one(peer: Peer, value: dict[str, Any], format: Any, scope: str = "full") -> tuple[list[int], int]:
    [sample] = encode(rows(value), peer.ours, format, scope=scope, max_length=10_000).samples
    assert isinstance(sample, Sample)
    return list(sample.ids), sample.prompt


def chat_both_ways(peer: Peer, value: dict[str, Any], masked: bool) -> int:
    theirs = ChatDataset([value], peer.theirs, mask_prompt=masked).process(value)
    assert one(peer, value, "messages", "response" if masked else "full") == theirs
    return theirs[1]


ANSWERED = ("answered", "thoughts in the text", "thoughts apart")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("style", ["chatml", "headers", "turns", "inst"])
def test_conversations_are_the_oracles_tokens(peer: Peer, style: str, masked: bool):
    peer.use(TEMPLATES[style])
    for name in ANSWERED:
        masks = chat_both_ways(peer, {"messages": CONVERSATIONS[name]}, masked)
        assert bool(masks) is masked


@pytest.mark.parametrize("masked", [False, True])
def test_the_starters_tokens_are_the_oracles(starter: Peer, masked: bool):
    long = [*CONVERSATIONS["turns"], {"role": "assistant", "content": "Grüße 👋 " * 20}]
    for messages in (*(CONVERSATIONS[name] for name in ANSWERED), long):
        chat_both_ways(starter, {"messages": messages}, masked)
    value = {"prompt": "Say\n it ", "completion": " wörld\n"}
    theirs = CompletionsDataset([value], starter.theirs, "prompt", "completion", masked).process(value)
    assert one(starter, value, "completion", "response" if masked else "full") == theirs


def test_tools_reach_the_template(starter: Peer, peer: Peer):
    peer.use(TEMPLATES["chatml"] + "{{ tools | tojson }}")
    value = {"messages": CONVERSATIONS["tool"][:2] + [MODEL], "tools": TOOLS}
    value["messages"][1] = MODEL
    theirs = ChatDataset([value], peer.theirs).process(value)
    assert one(peer, value, "messages") == theirs
    assert len(theirs[0]) > len(one(peer, {"messages": value["messages"]}, "messages")[0])


@example(text="\x04")
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_plain_text_is_the_oracles_tokens(starter: Peer, text: str):
    if not starter.theirs.encode(text):  # six control characters are no token; mlx-lm asks for the last one
        with pytest.raises(DataError, match="it has less than two tokens: nothing can be learned"):
            one(starter, {"text": text}, "text")
        return
    theirs = TextDataset([], starter.theirs).process({"text": text})
    assert one(starter, {"text": text}, "text") == theirs


@pytest.mark.parametrize("text", ["abc", "ends itself</s>", "é日"])
def test_the_end_of_a_text_is_there_once(peer: Peer, text: str):
    ids, prompt = one(peer, {"text": text}, "text")
    assert (ids, prompt) == TextDataset([], peer.theirs).process({"text": text})
    assert ids.count(peer.tokenizer.eos_id) == 1 and ids[-1] == peer.tokenizer.eos_id


# What is scored --------------------------------------------------------------------------


def text_of(ids: Any) -> str:
    return ByteTokenizer().decode(ids, skip_special=False)


def test_a_response_is_the_last_assistant_message():
    value = {"messages": [USER, {"role": "assistant", "content": "no"}, USER, MODEL]}
    [sample] = encode(rows(value), BYTES, "messages", scope="response").samples
    assert text_of(sample.ids[sample.prompt :]) == "Hello.</s>"


def test_what_comes_behind_the_response_has_no_part_in_it():
    before = {"messages": [USER, MODEL]}
    behind = {"messages": [USER, MODEL, USER, {"role": "tool", "content": "x"}]}
    cut, plain = (encode(rows(v), BYTES, "messages", scope="response").samples for v in (behind, before))
    assert cut == plain
    assert len(encode(rows(behind), BYTES, "messages").samples[0].ids) > len(plain[0].ids)


def test_an_answer_without_a_question_is_scored_whole():
    [sample] = encode(rows({"messages": [MODEL]}), BYTES, "messages", scope="response").samples
    assert (sample.prompt, sample.scored) == (0, len(sample.ids) - 1)


@pytest.mark.parametrize("opens", ["<|assistant|>", "<|assistant|><think>"])
def test_the_prompt_is_as_long_as_the_oracles_where_it_is_no_beginning(peer: Peer, opens: str):
    counts = "{{ messages | length }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    peer.use(counts + "{% if add_generation_prompt %}" + opens + "{% endif %}")
    assert chat_both_ways(peer, {"messages": CONVERSATIONS["thoughts in the text"]}, masked=True)


def test_parts_of_text_are_one_text():
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    apart = {"messages": [{"role": "user", "content": parts}, MODEL]}
    whole = {"messages": [USER, MODEL]}
    assert encode(rows(apart), BYTES, "messages").samples == encode(rows(whole), BYTES, "messages").samples


# Preferences -----------------------------------------------------------------------------

TRIPLES: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Q", "chosen": "good", "rejected": "bad"},
    "messages": {
        "prompt": [{"role": "user", "content": "Q"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    },
    "conversations": {
        "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}],
    },
}
TRIPLES["both"] = {"prompt": "Q", **TRIPLES["conversations"]}


@pytest.mark.parametrize("value", TRIPLES.values(), ids=TRIPLES)
def test_a_pair_has_its_prompt_once(value: dict[str, Any]):
    [pair] = encode(rows(value), BYTES, "preference").samples
    assert isinstance(pair, Pair)
    assert [text_of(part) for part in (pair.prompt, pair.chosen, pair.rejected)] == [
        "<|user|>Q</s><|assistant|>",
        "good</s>",
        "bad</s>",
    ]
    assert pair.place == "train.jsonl:1"


@given(one=st.text("ab", min_size=1, max_size=8), other=st.text("ab", min_size=1, max_size=8))
def test_the_common_prompt_is_as_long_as_it_can_be(one: str, other: str):
    bare = words(ByteTokenizer(), "{% for m in messages %}{{ m.content }}{% endfor %}")
    value = {"prompt": "Q", "chosen": one, "rejected": other}
    if one == other:
        with pytest.raises(DataError, match="alike"):
            encode(rows(value), bare, "preference")
        return
    [pair] = encode(rows(value), bare, "preference").samples
    assert text_of(pair.prompt + pair.chosen) == "Q" + one
    assert text_of(pair.prompt + pair.rejected) == "Q" + other
    assert pair.chosen and pair.rejected
    differ = pair.chosen[0] != pair.rejected[0]
    assert differ or min(len(pair.chosen), len(pair.rejected)) == 1  # one begins with all of the other


def test_long_pairs_lose_the_end_of_their_answers():
    value = {"prompt": "Q", "chosen": "c" * 50, "rejected": "r" * 3}
    prompt = len("<|user|>Q</s><|assistant|>")
    cut = encode(rows(value), BYTES, "preference", max_length=prompt + 5)
    [pair] = cut.samples
    assert (text_of(pair.chosen), text_of(pair.rejected)) == ("ccccc", "rrr</")
    assert (cut.truncated, cut.skipped, cut.whole) == (1, {}, [prompt + 54])
    fit = encode(rows(value), BYTES, "preference", max_length=prompt + 54)
    assert (fit.truncated, len(fit.samples[0].chosen)) == (0, 54)
    assert fit.lengths == [prompt + 54 + 7]
    with pytest.raises(DataError, match="none of the 1 rows can be used: 1 × nothing left to score"):
        encode(rows(value), BYTES, "preference", max_length=prompt)


# Lengths ---------------------------------------------------------------------------------


def test_long_samples_are_cut_and_counted():
    made = encode(rows({"text": "abcdef"}, {"text": "abc"}, {"text": "ab"}), BYTES, "text", max_length=4)
    # With <s> in front and </s> behind.
    assert [text_of(sample.ids) for sample in made.samples] == ["<s>abc", "<s>abc", "<s>ab</s>"]
    assert (made.truncated, made.whole, made.lengths) == (2, [8, 5, 4], [4, 4, 4])
    assert made.scored == 9


def test_a_prompt_that_fills_the_limit_leaves_nothing_to_score():
    long = {"messages": [{"role": "user", "content": "x" * 30}, MODEL]}
    short = {"messages": [USER, MODEL]}
    made = encode(rows(long, short), BYTES, "messages", scope="response", max_length=30)
    assert [sample.place for sample in made.samples] == ["train.jsonl:2"]
    assert made.skipped == {"nothing left to score within 30 tokens": 1}
    assert made.truncated == 1  # the short one has 32


@given(st.lists(st.text("xy", min_size=1, max_size=20), min_size=1), st.integers(2, 30))
def test_every_row_becomes_a_sample_or_is_counted(texts: list[str], most: int):
    made = encode(rows(*({"text": text} for text in texts)), BYTES, "text", max_length=most)
    assert len(made.samples) + sum(made.skipped.values()) == len(texts) == len(made.whole)
    assert all(2 <= n <= most for n in made.lengths)
    assert made.truncated == sum(n > most for n in made.whole)


# What goes wrong ------------------------------------------------------------------------


def refusal(model: Any, *values: dict[str, Any], format: Any = "messages", **options: Any) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        encode(rows(*values), model, format, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_that_the_template_refuses_are_named_together():
    good, bad = {"messages": [USER, MODEL]}, {"messages": [USER, USER]}
    strict = words(ByteTokenizer(), STRICT)
    said = refusal(strict, good, bad, good, bad, bad, bad)
    assert said.startswith("train.jsonl:2: the chat template says: roles must alternate")
    assert "(and 3 more bad rows: train.jsonl:4, train.jsonl:5, ...)" in said
    assert "--skip-bad" in said
    made = encode(rows(good, bad), strict, "messages", skip_bad=True)
    assert (len(made.samples), made.skipped) == (1, {"refused by the chat template": 1})


def test_a_conversation_without_an_answer_is_named():
    question = {"messages": [USER]}
    assert refusal(BYTES, question, scope="response").startswith("train.jsonl:1: no message is the assistant")
    assert len(encode(rows(question), BYTES, "messages").samples) == 1


def test_nothing_left_over_is_an_error_of_its_own():
    strict = words(ByteTokenizer(), STRICT)
    said = refusal(strict, {"messages": [USER, USER]}, skip_bad=True)
    assert said.startswith(
        "none of the 1 rows can be used: 1 × refused by the chat template (train.jsonl:1: "
    )
    assert "roles must alternate" in said


@pytest.mark.parametrize("format", ["messages", "completion", "preference"])
def test_a_model_without_a_template_says_so_once(format: str):
    said = refusal(words(ByteTokenizer(), None), {}, {}, format=format)
    assert said.startswith(f"tiny has no chat template, and {format} data needs one")


@pytest.mark.parametrize("scope", ["full", "response"])
@pytest.mark.parametrize("format", ["messages", "completion", "preference"])
def test_a_template_that_writes_no_answers_is_refused(format: str, scope: str):
    deaf = words(
        ByteTokenizer(), "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
    )
    said = refusal(deaf, {}, format=format, scope=scope)
    assert said.startswith(f"the chat template of tiny writes no assistant messages, and {format}")
    assert len(encode(rows({"text": "a"}), deaf, "text").samples) == 1


def test_a_model_without_a_template_learns_text():
    assert encode(rows({"text": "a"}), words(ByteTokenizer(), None), "text").samples[0].ids[-1] == EOS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "text", "scope": "response"}, "text data has no prompt to mask"),
        ({"scope": "answer"}, "the scope is full or response, not 'answer'"),
        ({"max_length": 1}, "samples need at least 2 tokens, not 1"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options: dict[str, Any], said: str):
    assert refusal(BYTES, {"text": "a"}, **options).startswith(said)


def test_a_token_beyond_the_model_is_named():
    said = refusal(words(ByteTokenizer(), vocab_size=100), {"text": "zz"}, format="text")
    assert said.startswith("train.jsonl:1: token 257 is outside the model's vocabulary of 100")


# The fingerprint and the way there ---------------------------------------------------------

S = Sample((1, 2, 3))


@pytest.mark.parametrize(
    "other",
    [
        [Sample((1, 2, 4))],
        [Sample((1, 2, 3), 1)],
        [Sample((1, 2)), Sample((3, 4))],
        [S, S],
        [Pair((1,), (2,), (3,))],
        [],
    ],
)
def test_a_fingerprint_tells_what_is_learned_from_apart(other: list[Any]):
    assert fingerprint(other) != fingerprint([S])
    assert fingerprint([Sample((1, 2, 3), place="elsewhere")]) == fingerprint([S])


def test_pairs_that_are_divided_otherwise_have_another_fingerprint():
    assert fingerprint([Pair((1, 2), (3,), (4,))]) != fingerprint([Pair((1,), (2, 3), (4,))])


def test_who_watches_is_told_the_beginning_and_the_end():
    told: list[tuple[int, int]] = []
    many = rows(*({"text": "a"} for _ in range(450)))
    made = encode(watched(many, lambda done, of: told.append((done, of))), BYTES, "text")
    assert len(made.samples) == 450
    assert told == [(0, 450), (200, 450), (400, 450), (450, 450)]
