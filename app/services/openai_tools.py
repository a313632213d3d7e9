"""Calls of tools in what a model wrote (core/tool_calls.py)."""

import re
import secrets
from typing import Any

import msgspec

from app.core.tool_calls import BEGIN, END

_CALL = re.compile(rf"{BEGIN}\s*(.*?)\s*(?:{END}|\Z)", re.DOTALL)


def split_calls(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The text in front of the calls, and the calls; where one cannot be read, all is text."""
    start = text.find(BEGIN)
    if start < 0:
        return text, []
    calls = [_call(found[1]) for found in _CALL.finditer(text, start)]
    read = [call for call in calls if call is not None]
    if len(read) < len(calls):
        return text, []
    return text[:start].rstrip(), read


def _call(written: str) -> dict[str, Any] | None:
    try:
        said = msgspec.json.decode(written)
    except (msgspec.DecodeError, RecursionError):
        return None
    name = said.get("name") if isinstance(said, dict) else None
    arguments = said.get("arguments", {}) if isinstance(said, dict) else None
    if isinstance(arguments, str):  # some write them as text already
        shown = arguments
    elif isinstance(arguments, dict):
        shown = msgspec.json.encode(arguments).decode()
    else:
        return None
    if not isinstance(name, str) or not name:
        return None
    function = {"name": name, "arguments": shown}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def without_calls(text: str) -> int:
    """How much of an unfinished text is surely no call: up to one, or to what may begin one."""
    start = text.find(BEGIN)
    if start >= 0:
        return start
    for length in range(min(len(BEGIN) - 1, len(text)), 0, -1):
        if BEGIN.startswith(text[-length:]):
            return len(text) - length
    return len(text)
