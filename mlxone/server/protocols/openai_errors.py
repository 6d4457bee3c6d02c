"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code", "request_id", …}}`.

`error_body(error, request_id)` for a response that has not begun, `error_value` for one event of a
stream. What only the operator may know (paths, tracebacks) stays in the log, under the request's id.
"""

from __future__ import annotations

import re

import msgspec

from mlxone.core.errors import MlxoneError, ModelNotFound

# Other 4xx are an invalid_request_error, other 5xx a server_error.
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
MEMORY_ADMISSION = ("context_over_budget", "model_over_budget")

# The operator's to mend, unlike 501, 503 and 504: such a message may name places, and stays in the log…
PRIVATE = (500, 502, 507)
PUBLIC = ("memory",)  # …but for what a client may act upon
GENERAL = {
    "damaged_model": "the model's files are damaged",
    "storage": "a file of the server cannot be read or written",
    "backend": "the models' backend cannot run",
    "hub": "the Hub could not be reached",
}
# Messages about a model, which may begin with the place where it lies.
MAY_NAME_PLACES = (
    *("unsupported_model", "model_not_found", "ambiguous_model", "template", *MEMORY_ADMISSION),
    *("adapter_mismatch", "adapter_not_found"),
)
OWN_NAME = (ModelNotFound.code, "model")  # the name a client gave, and ids of what there is: no places
_PLACE = re.compile(r"(?<![\w./~-])~?(?:/[^\s/:'\"`]+)+/([^\s/:'\"`]+)/?")

_encode = msgspec.json.Encoder().encode


class ErrorObject(msgspec.Struct):
    """On the wire; numbers may stand beside these."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class ErrorAnswer(msgspec.Struct):
    error: ErrorObject


def error_body(error: MlxoneError, request_id: str) -> bytes:
    return _encode(error_value(error, request_id))


def error_value(error: MlxoneError, request_id: str) -> dict[str, dict[str, object]]:
    body: dict[str, object] = {
        "message": message(error, request_id),
        "type": error_type(error),
        "param": error.param,
        "code": error.code,
        "request_id": request_id,
    }
    return {"error": {**error.details, **body}}


def error_type(error: MlxoneError) -> str:
    if error.code in MEMORY_ADMISSION:
        return "memory_admission"
    return TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")


def message(error: MlxoneError, request_id: str) -> str:
    """What a client may read, with the way out in words."""
    if error.status in PRIVATE and error.code not in PUBLIC:
        what = GENERAL.get(error.code, "internal error")
        return f"{what}; the server's log has it under request {request_id}"
    text = _whole(str(error))
    if error.code not in MAY_NAME_PLACES or (error.code, error.param) == OWN_NAME:
        return text
    return _PLACE.sub(r"\1", text)


def _whole(text: str) -> str:
    """A lone surrogate, from a file's name, cannot be said in UTF-8."""
    return text.encode(errors="replace").decode()
