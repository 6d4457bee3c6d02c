"""A small thing to learn: "Anna, 34, Paris" becomes JSON of one fixed form. By rule, always the same."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Hugo", "Karl", "Max", "Paula")
CITIES = ("Paris", "London", "Berlin", "Rome", "Madrid", "Vienna", "Oslo", "Cairo", "Tokyo", "Delhi")
AGES = range(18, 90)
ROLE = "JSON"
TRAINING, VALIDATION, UNSEEN = 300, 20, 20  # people; nobody is in two of the sets


def sets() -> dict[str, list[tuple[str, str]]]:
    everybody = list(itertools.product(NAMES, AGES, CITIES))
    random.Random(7).shuffle(everybody)
    asked = [(f"{name}, {age}, {city}", written(name, age, city)) for name, age, city in everybody]
    return {
        "train": asked[:TRAINING],
        "valid": asked[TRAINING:][:VALIDATION],
        "test": asked[TRAINING + VALIDATION :][:UNSEEN],
    }


def written(name: str, age: int, city: str) -> str:
    return json.dumps({"name": name, "age": age, "city": city})


def messages(question: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": ROLE}, {"role": "user", "content": question}]


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, rows in sets().items():
        (folder / f"{name}.jsonl").write_text("".join(lines(rows)), encoding="utf-8")
    return folder


def lines(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    for question, answer in rows:
        row = [*messages(question), {"role": "assistant", "content": answer}]
        yield json.dumps({"messages": row}) + "\n"
