"""Headers that requests may have, and parts of their paths, for the OpenAPI document."""

import re
from typing import Any

REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Your name for the request: 1 to 128 of `A-Za-z0-9._:-`; another one is made "
    "where it is absent or anything else. It comes back in the answer's header and body.",
    "schema": {"type": "string"},
    "example": "order-4711",
}

TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "How long you will wait, in ms; each version has a default, see `/models`.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 3_600_000},
    "example": 2000,
}

PRIORITY = {
    "name": "X-Priority",
    "in": "header",
    "required": False,
    "description": "How urgent it is. A better class goes first; what has waited for long is due a "
    "share beside it (docs/scheduling.md).",
    "schema": {
        "type": "string",
        "enum": ["interactive", "normal", "batch"],
        "default": "normal",
    },
    "example": "interactive",
}

CALLER = {
    "name": "X-Caller-Id",
    "in": "header",
    "required": False,
    "description": "On whose behalf you ask, 1 to 64 of `A-Za-z0-9._:-`; your address where it is "
    "absent. Callers of one class share the server by tokens.",
    "schema": {"type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9._:-]+$"},
    "example": "shop-7",
}

ONCE_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Your name for what this request is to do once, 1 to 255 printable characters: "
    "sent again with the same body it does nothing and is answered as before, for 24 hours; with "
    "another body it is refused.",
    "schema": {"type": "string", "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "order-4711-step-2",
}

JSON_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Length of the JSON in bytes, where raw tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
    "example": 181,
}

INFERENCE = [REQUEST_ID, TIMEOUT, PRIORITY, CALLER]


def query(name: str, description: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    where = {"name": name, "in": "query", "required": False}
    return {**where, "description": description, "schema": schema, "example": example}


_OF_PATHS = {
    "model_name": ("A model, as `/models` lists them.", "sentiment"),
    "model_version": ("A version of it.", "v1"),
    "file_id": ("A file of yours.", "file-019d3a7c51e05b2f6c0d9e8a7b6c5d4e"),
    "batch_id": ("A batch of yours.", "batch_019d3a7c51e05b2f6c0d9e8a7b6c5d4e"),
    "job_id": ("A job of yours.", "job_019d3a7c51e05b2f6c0d9e8a7b6c5d4e"),
    "key_name": ("The name or the id of an API key.", "shop-frontend"),
}


def with_path_parameters(paths: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Declare what stands in braces in each path; routes read it from the request themselves."""
    for path, operations in paths.items():
        named = [_of_path(name) for name in re.findall(r"{(\w+)}", path)]
        for operation in operations.values():
            operation["parameters"] = [*named, *operation.get("parameters", ())]


def _of_path(name: str) -> dict[str, Any]:
    description, example = _OF_PATHS[name]
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": description,
        "schema": {"type": "string", "minLength": 1},
        "example": example,
    }
