"""OpenAI's responses as a chat of ours: requests in, answers and streams of events out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import InvalidRequest
from app.core.types import Answer, Piece
from app.services.model_service import ServedVersion
from app.services.openai_generation import Asked, Head, asked_of_chat, new_id
from app.services.openai_parameters import UnsupportedParameter
from app.services.openai_tools import split_calls, without_calls

Event = dict[str, Any]

_NOT_KEPT = ("previous_response_id", "conversation")
_SAME = "temperature top_p top_k min_p seed max_output_tokens tool_choice stream".split()


def asked_of_response(given: Mapping[str, Any], found: ServedVersion) -> Asked:
    """As a chat. Raises InvalidRequest that names the field."""
    for name in _NOT_KEPT:
        if name in given:
            raise UnsupportedParameter(name, "nothing is kept; send the whole conversation")
    if given.get("background"):
        raise UnsupportedParameter("background", "answers are not kept")
    if given.get("truncation", "disabled") != "disabled":
        raise UnsupportedParameter("truncation", 'input is never cut; send "disabled"')
    if given.get("top_logprobs"):
        raise UnsupportedParameter("top_logprobs", "responses tell none; use chat completions")
    chat = {name: given[name] for name in _SAME if name in given}
    chat["messages"] = _messages(given)
    if form := _format(given.get("text", {}).get("format")):
        chat["response_format"] = form
    choice = given.get("tool_choice")
    if isinstance(choice, dict) and "name" in choice:
        chat["tool_choice"] = {**choice, "function": {"name": choice["name"]}}
    if "tools" in given:
        chat["tools"] = [_tool(tool, at) for at, tool in enumerate(given["tools"])]
    asked = asked_of_chat(chat, found)
    return Asked(given, asked.requests, asked.has_tools)


def _messages(given: Mapping[str, Any]) -> list[Any]:
    messages: list[Any] = []
    if given.get("instructions"):
        messages.append({"role": "system", "content": given["instructions"]})
    items = given["input"]
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    for at, item in enumerate(items):
        _add(messages, item, f"input.{at}")
    return messages


def _add(messages: list[Any], item: Any, where: str) -> None:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind == "message":
        messages.append({name: item.get(name) for name in ("role", "content")})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id", ""), "type": "function", "function": function}
        if messages and messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"].append(call)
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        messages.append(
            {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
        )
    elif kind != "reasoning":  # thoughts of earlier turns are not shown to a model again
        raise InvalidRequest(
            f"{where} has the type {str(kind)[:64]!r}; messages, function calls and their outputs "
            "are taken"
        )


def _format(given: Any) -> dict[str, Any] | None:
    """As chat completions write it."""
    if not isinstance(given, dict) or given.get("type", "text") == "text":
        return None
    if given["type"] != "json_schema":
        return given
    return {
        "type": "json_schema",
        "json_schema": {name: value for name, value in given.items() if name != "type"},
    }


def _tool(tool: Any, at: int) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        raise InvalidRequest(f'tools.{at} must have the type "function"; others are not here')
    function = {name: value for name, value in tool.items() if name not in ("type", "strict")}
    return {"type": "function", "function": function}


def response_answer(head: Head, asked: Asked, answer: Answer) -> dict[str, Any]:
    items = list(_items(answer.value, asked.has_tools, new_id("msg")))
    return _response(head, asked, items, answer)


def _items(text: str, has_tools: bool, message_id: str) -> Iterator[dict[str, Any]]:
    left, calls = split_calls(text) if has_tools else (text, [])
    if left or not calls:
        yield _message(message_id, left)
    for call in calls:
        function = call["function"]
        yield {
            "type": "function_call",
            "id": new_id("fc"),
            "call_id": call["id"],
            "name": function["name"],
            "arguments": function["arguments"],
            "status": "completed",
        }


def _message(message_id: str, text: str | None, status: str = "completed") -> dict[str, Any]:
    """text: None for one that has not begun."""
    content = [] if text is None else [_part(text)]
    shown = {"type": "message", "id": message_id, "status": status, "role": "assistant"}
    return {**shown, "content": content}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _response(
    head: Head, asked: Asked, items: list[dict[str, Any]], answer: Answer | None
) -> dict[str, Any]:
    """answer: None while it is being written."""
    given = asked.given
    is_cut = answer is not None and answer.metadata["finish_reason"] == "length"
    status = "in_progress" if answer is None else "incomplete" if is_cut else "completed"
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": given.get("instructions"),
        "max_output_tokens": given.get("max_output_tokens"),
        "metadata": given.get("metadata", {}),
        "model": head.model,
        "output": items,
        "parallel_tool_calls": given.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "store": False,
        "temperature": given.get("temperature"),
        "text": given.get("text", {"format": {"type": "text"}}),
        "tool_choice": given.get("tool_choice", "auto"),
        "tools": given.get("tools", []),
        "top_p": given.get("top_p"),
        "truncation": "disabled",
        "usage": None if answer is None else _usage(answer),
        "user": given.get("user"),
    }


def _usage(answer: Answer) -> dict[str, Any]:
    usage = answer.usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


@dataclass(slots=True)
class ResponseWriter:
    """Named events, by the rules of openai_chunks.py. The message begins with its first text;
    function calls come whole, at the end."""

    head: Head
    asked: Asked
    message_id: str = field(default_factory=lambda: new_id("msg"))
    text: str = ""
    shown: int = 0
    number: int = 0
    has_begun: bool = False

    def begin(self) -> Iterator[Event]:
        response = _response(self.head, self.asked, [], None)
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def take(self, piece: Piece) -> Iterator[Event]:
        self.text += piece.text
        safe = without_calls(self.text) if self.asked.has_tools else len(self.text)
        yield from self._say(self.text[self.shown : safe])

    def finish(self, request: int, answer: Answer) -> Iterator[Event]:
        items = list(_items(answer.value, self.asked.has_tools, self.message_id))
        for at, item in enumerate(items):
            if item["type"] == "message":
                yield from self._close(item, at)
            else:
                yield from self._call(item, at)
        response = _response(self.head, self.asked, items, answer)
        yield self._event(f"response.{response['status']}", response=response)

    def end(self, answers: Sequence[Answer]) -> Iterator[Event]:
        yield from ()

    def _say(self, text: str) -> Iterator[Event]:
        if not text:
            return
        yield from self._open()
        self.shown += len(text)
        yield self._on_part("response.output_text.delta", delta=text, logprobs=[])

    def _open(self) -> Iterator[Event]:
        if self.has_begun:
            return
        self.has_begun = True
        item = _message(self.message_id, None, "in_progress")
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._on_part("response.content_part.added", part=_part(""))

    def _close(self, item: dict[str, Any], at: int) -> Iterator[Event]:
        text = item["content"][0]["text"]
        yield from self._open()
        yield from self._say(text[self.shown :])
        yield self._on_part("response.output_text.done", text=text, logprobs=[])
        yield self._on_part("response.content_part.done", part=_part(text))
        yield self._event("response.output_item.done", output_index=at, item=item)

    def _call(self, item: dict[str, Any], at: int) -> Iterator[Event]:
        begun = {**item, "arguments": "", "status": "in_progress"}
        about = {"item_id": item["id"], "output_index": at}
        arguments = item["arguments"]
        yield self._event("response.output_item.added", output_index=at, item=begun)
        yield self._event("response.function_call_arguments.delta", **about, delta=arguments)
        yield self._event(
            "response.function_call_arguments.done",
            **about,
            name=item["name"],
            arguments=arguments,
        )
        yield self._event("response.output_item.done", output_index=at, item=item)

    def _on_part(self, kind: str, **fields: Any) -> Event:
        return self._event(kind, item_id=self.message_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> Event:
        self.number += 1
        return {"type": kind, "sequence_number": self.number - 1, **fields}
