"""The chat templates in `data/`, in the styles models are published with, and what to put through them.

Written for these tests: between them the templates use every construct that published ones use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DATA.glob("*.jinja"))}

CALL = {
    "id": "call_0123456789",
    "type": "function",
    "function": {"name": "look", "arguments": {"city": "Zürich"}},
}
SYSTEM = {"role": "system", "content": "  Be brief. "}
USER = {"role": "user", "content": "Hi <there> & 'you' 👋 "}
MODEL = {"role": "assistant", "content": " Hello.\n"}
PARTS = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " What is this? "}]}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, MODEL, USER, MODEL, USER],
    "parts": [USER, MODEL, PARTS],
    "answered": [USER, MODEL],
    "thoughts in the text": [USER, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."}],
    "thoughts apart": [USER, {"role": "assistant", "content": "Yes.", "reasoning": "Hm.", "name": None}],
    "tool": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_0123456789"},
        {"role": "tool", "content": "sun"},
    ],
    "wrong roles": [USER, USER, {"role": "stranger", "content": "?"}],
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "looks up\nthe weather <now>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                    "unit": {"enum": ["°C", "K"]},
                    "any": {},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "quit", "description": "Ends.", "parameters": {"type": "object"}},
    },
]
DOCUMENTS = [{"title": "One", "text": "é <b>", "n": 1}, {"title": "Two", "text": ""}]
EXTRAS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no prompt": {"add_generation_prompt": False},
    "tools": {"tools": TOOLS},
    "no tools": {"tools": []},
    "documents": {"documents": DOCUMENTS, "tools": TOOLS},
    "keywords": {"enable_thinking": False, "date_string": "1999", "bos_token": "<other>"},
}
