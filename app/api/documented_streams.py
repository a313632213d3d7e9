"""Server-sent events in the OpenAPI document: its schema is that of one event."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

REF = "#/components/schemas/{model}"

Payloads = Mapping[str, type[BaseModel]] | Sequence[type[BaseModel]] | type[BaseModel]
"""By the names of events; or of events without names, what any of them may hold; or of all events,
whatever their names are."""


def event_stream(payloads: Payloads) -> dict[str, Any]:
    """The content of a response. Events without names end with `[DONE]`."""
    if isinstance(payloads, Mapping):
        named = [_named({"const": name}, payload) for name, payload in payloads.items()]
        schema: dict[str, Any] = {"oneOf": named}
    elif isinstance(payloads, type):
        schema = _named({"type": "string"}, payloads)
    else:
        data = {"anyOf": [{"const": "[DONE]"}, _json([_ref(each) for each in payloads])]}
        schema = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {"text/event-stream": {"schema": schema}}


def models_of(payloads: Payloads) -> list[type[BaseModel]]:
    """Those that hold the payloads."""
    if isinstance(payloads, type):
        return [payloads]
    return list(payloads.values() if isinstance(payloads, Mapping) else payloads)


def _named(name: dict[str, Any], payload: type[BaseModel]) -> dict[str, Any]:
    event = {"event": name, "data": _json([_ref(payload)])}
    return {"type": "object", "properties": event, "required": ["event", "data"]}


def _json(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    content = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"type": "string", "contentMediaType": "application/json", "contentSchema": content}


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REF.format(model=model.__name__)}
