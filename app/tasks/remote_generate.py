"""Continuation by another server: of a text as it stands, or of a conversation by its template."""

from collections.abc import Mapping
from typing import Any

import msgspec

from app.core.errors import InvalidRequest
from app.core.upstream import Call
from app.tasks.conversation import CHOICE, OPTIONS, TOOLS, check_fields, messages_of, tools_of
from app.tasks.remote import Reader, fields_of
from app.tasks.remote_texts import ChatReader, CompletionReader
from app.tasks.tool_calls import is_forced

_ANY_OBJECT = {"type": "object"}


class RemoteGenerate:
    """Says in OpenAI's words what was asked in ours."""

    def prepare(
        self, given: str | Mapping[str, Any], parameters: Mapping[str, Any], *, stream: bool
    ) -> tuple[Call, Reader]:
        count: int = parameters["num_return_sequences"]
        streams = stream and count == 1
        body = {**fields_of(parameters), **_streaming(streams)}
        if count > 1:
            body["n"] = count
        if parameters["stop"]:
            body["stop"] = list(parameters["stop"])
        if isinstance(given, str):
            if parameters["json_schema"] is not None:
                raise InvalidRequest("parameters.json_schema goes with inputs.messages here")
            head = given if parameters["return_full_text"] else ""
            text = Call("completions", {"prompt": given, **body}, streams)
            return text, CompletionReader(count, parameters["seed"], head)
        if parameters["return_full_text"]:
            raise InvalidRequest("parameters.return_full_text goes with text, not with messages")
        chat = {**_conversation(given), **body, **_form(parameters["json_schema"])}
        return Call("chat/completions", chat, streams), ChatReader(count, parameters["seed"])


def _streaming(streams: bool) -> dict[str, Any]:
    return {"stream": True, "stream_options": {"include_usage": True}} if streams else {}


def _conversation(given: Mapping[str, Any]) -> dict[str, Any]:
    check_fields(given)
    said: dict[str, Any] = {
        "messages": [_message(each) for each in messages_of(given, knows_developer=True)]
    }
    if tools := tools_of(given):
        said[TOOLS] = tools
        if is_forced(choice := given.get(CHOICE)):
            said[CHOICE] = choice
    if options := given.get(OPTIONS):
        if not isinstance(options, dict):
            raise InvalidRequest(f"{OPTIONS} must be an object")
        said[OPTIONS] = options
    return said


def _message(checked: dict[str, Any]) -> dict[str, Any]:
    """Arguments of calls travel as text."""
    if "tool_calls" not in checked:
        return checked
    return {**checked, "tool_calls": [_call(call) for call in checked["tool_calls"]]}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = msgspec.json.encode(function["arguments"]).decode()
    return {**call, "function": {**function, "arguments": arguments}}


def _form(schema: str | None) -> dict[str, Any]:
    """What every server knows, where any object will do."""
    if schema is None:
        return {}
    try:
        read: Any = msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest("parameters.json_schema is not JSON") from None
    if read == _ANY_OBJECT:
        return {"response_format": {"type": "json_object"}}
    return {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": read, "strict": True},
        }
    }
