"""README's examples of the library, run as they are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import mlxone

README = Path(__file__).parents[2] / "README.md"
CLIENT = "from openai import"  # of a server, not of the library


def examples() -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    return [code for code in found if CLIENT not in code]


def client_example() -> str:
    (found,) = re.findall(rf"^```python\n({CLIENT}.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    return str(found)


@pytest.mark.usefixtures("starter_home")
def test_the_examples_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    rows = ({"prompt": f"{n} and {n}?", "completion": str(2 * n)} for n in range(6))
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # Greedy or seeded, they say the same every time; only how long it may take is cut here.
    monkeypatch.setitem(mlxone.generate.__kwdefaults__, "max_tokens", 24)
    code = examples()
    assert len(code) == 5
    code[4] = code[4].replace("iters=20", "iters=2, batch=1")
    names: dict[str, Any] = {}
    printed = []
    for at, example in enumerate(code):
        exec(compile(example, f"README.md, example {at + 1}", "exec"), names)
        printed.append(capsys.readouterr().out)
    assert "Paris" in printed[0]
    *tokens, last = printed[1].splitlines()
    assert len(tokens) == names["generation"].stats.generated_tokens > 2
    assert all("TopLogprob" in line for line in tokens)
    assert last.startswith(f"{names['generation'].stats.prompt_tokens} ")
    ids = names["model"].tokenizer.encode("The capital of France is")
    assert names["logits"].shape == (len(ids), names["model"].vocab_size)
    assert names["state"].offset == len(ids)
    assert "SmolLM2" in printed[3] and "runs here" in printed[3]
    assert "Stepped(step=2" in printed[4] and names["result"].steps == 2
    assert len(list(names["answer"])) > 0
    assert names["report"].fits and names["report"].max_safe_context == 8192
    assert "Paris" in names["model"].tokenizer.decode([int(names["logits"][-1].argmax().item())])


@pytest.mark.usefixtures("starter_home")
def test_the_readmes_client_gets_an_answer(capsys: pytest.CaptureFixture[str]):
    with mlxone.create_server(mlxone.load_context("starter"), port=0) as server:
        code = client_example().replace("http://127.0.0.1:8090", server.url)
        exec(compile(code.replace("stream=True", "stream=True, max_tokens=12"), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.split()) > 3


def test_a_type_for_every_public_name():
    """What the examples and their readers import is there, and `dir` tells of it."""
    assert set(mlxone.__all__) == set(dir(mlxone))
    for name in mlxone.__all__:
        assert getattr(mlxone, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mlxone.nothing  # noqa: B018
    assert (Path(mlxone.__file__).parent / "py.typed").is_file()
