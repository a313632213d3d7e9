"""A call that a request forces: the text is begun as the model's template writes calls, and held
to a JSON schema from there on. Only where the template writes calls as JSON between marks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.core.errors import InvalidRequest
from app.core.tool_calls import BEGIN, END
from app.tasks.chat_template import ChatTemplate

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_CALL = re.compile(rf"({BEGIN}\s*)(\{{.*?\}})\s*{END}", re.DOTALL)
_PROBE: dict[str, Any] = {"name": "probe", "arguments": {"a": 1}}
_PROBED: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call00001", "type": "function", "function": _PROBE}],
    },
]


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """opening: what the text begins with; schema: text of the JSON schema of what follows."""

    opening: str
    schema: str


def is_forced(choice: Any) -> bool:
    return choice not in (None, "auto", "none")


def forced_call(
    choice: Any, tools: Sequence[Mapping[str, Any]], template: ChatTemplate
) -> ForcedCall:
    """choice: `required`, or a function by its name, as OpenAI writes it; tools: checked ones.

    Raises InvalidRequest naming `tool_choice`."""
    functions = [tool["function"] for tool in tools]
    if choice != "required":
        functions = [_named(choice, functions)]
    if not functions:
        raise InvalidRequest("tool_choice asks for a call, but tools is empty; send both")
    return ForcedCall(_opening(template), msgspec.json.encode(_schema(functions)).decode())


def _named(choice: Any, functions: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or choice.get("type") != "function":
        raise InvalidRequest(
            'tool_choice must be "auto", "none", "required" or a function by its name'
        )
    found = next((each for each in functions if each["name"] == name), None)
    if found is None:
        raise InvalidRequest(f"tool_choice names {name[:64]!r}, which is none of tools")
    return found


def _opening(template: ChatTemplate) -> str:
    """Found out by having it write a call."""
    tool = {"type": "function", "function": {**_PROBE, "parameters": NO_ARGUMENTS}}
    try:
        written = template.render(_PROBED, [tool], {})
    except InvalidRequest:
        written = ""
    for found in _CALL.finditer(written):
        try:
            if msgspec.json.decode(found[2]) == _PROBE:
                return found[1]
        except msgspec.DecodeError:
            continue  # such as the form that a system message explains
    raise InvalidRequest(
        "tool_choice cannot force a call: the model's chat template does not write calls as JSON "
        f'between {BEGIN} and {END}; send "auto"'
    )


def _schema(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A call of one of them. References inside of parameters go on pointing into these."""
    calls = [_call(function["name"], str(at)) for at, function in enumerate(functions)]
    parameters = {
        str(at): _moved(function.get("parameters") or NO_ARGUMENTS, f"#/$defs/{at}")
        for at, function in enumerate(functions)
    }
    call = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {**call, "$defs": parameters}


def _call(name: str, place: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{place}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, to: str) -> Any:
    """A schema whose root is now at `to`."""
    if isinstance(schema, list):
        return [_moved(each, to) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(value, to) for name, value in schema.items()}
    target = schema.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = to + target[1:]
    return moved
