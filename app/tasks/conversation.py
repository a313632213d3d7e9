"""A conversation as callers send it, checked and brought into the form that chat templates read.

Callers speak OpenAI's dialect: content as text or text parts, a tool's arguments as a string of
JSON, the role `developer`. Templates were written for plain text, objects and `system`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app.core.errors import CannotLoad, InvalidRequest
from app.tasks.chat_files import ChatFiles, read_chat_files
from app.tasks.chat_template import ChatTemplate
from app.tasks.tool_calls import ForcedCall, forced_call, is_forced

log = structlog.get_logger()

MESSAGES, TOOLS, OPTIONS = "messages", "tools", "chat_template_kwargs"
CHOICE = "tool_choice"
ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_MESSAGES = 2048
MAX_TOOLS = 128
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")


class Conversations:
    """Turns the conversations of one model into prompts."""

    def __init__(self, files: ChatFiles, why_not: str = "") -> None:
        """Raises CannotLoad for a template that cannot be read."""
        self._why_not = why_not
        self._templates = {
            name: ChatTemplate(source, files.tokens)
            for name, source in files.templates.items()
            if name in ("default", "tool_use")
        }

    @classmethod
    def of_model(cls, model: Path, template: str | None = None) -> "Conversations":
        """By what lies beside the weights, or by a template in its place.

        The model's own, broken, costs the chat, not the model; of another one CannotLoad is raised.
        """
        if template is not None:
            return cls(ChatFiles({"default": template}, _tokens_of(model)))
        try:
            return cls(read_chat_files(model))
        except (OSError, ValueError, CannotLoad) as error:
            log.warning("no_chat_template", reason=str(error))
            return cls(ChatFiles(), f"its chat template is broken: {error}")

    def prompt(self, given: Mapping[str, Any]) -> str:
        """given: `messages`; maybe `tools`, `tool_choice`, `chat_template_kwargs`.

        Raises InvalidRequest."""
        check_fields(given)
        tools = tools_of(given)
        template = self._template(has_tools=bool(tools))
        messages = messages_of(given, knows_developer=template.knows_developer)
        if tools and not template.knows_tools:
            raise InvalidRequest("tools is not supported: the model's chat template knows no tools")
        return template.render(messages, tools, _options(given.get(OPTIONS), template.names))

    def forced_call(self, given: Mapping[str, Any]) -> ForcedCall | None:
        """The call that `tool_choice` asks for, if it does. Raises InvalidRequest."""
        choice = given.get(CHOICE)
        if not is_forced(choice):
            return None
        tools = tools_of(given) or []
        return forced_call(choice, tools, self._template(has_tools=bool(tools)))

    def _template(self, *, has_tools: bool) -> ChatTemplate:
        found = self._templates.get("tool_use") if has_tools else None
        found = found or self._templates.get("default")
        if found is None:
            why = self._why_not or "it has no chat template; send text to continue"
            raise InvalidRequest(f"messages is not what the model takes: {why}")
        return found


def _tokens_of(model: Path) -> Mapping[str, str]:
    try:
        return read_chat_files(model).tokens
    except (OSError, ValueError):
        return {}


def check_fields(given: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for what is no part of a conversation."""
    if unknown := sorted(set(given) - {MESSAGES, TOOLS, CHOICE, OPTIONS}):
        raise InvalidRequest(f"inputs.{unknown[0][:64]} is unknown; send {MESSAGES} or text")


def messages_of(conversation: Mapping[str, Any], *, knows_developer: bool) -> list[dict[str, Any]]:
    """Plain texts, and arguments of calls as objects. Raises InvalidRequest."""
    given = conversation.get(MESSAGES)
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_MESSAGES:
        raise InvalidRequest(f"messages must be a list of 1 to {MAX_MESSAGES} messages")
    return [_message(entry, f"messages.{at}", knows_developer) for at, entry in enumerate(given)]


def _message(entry: Any, where: str, knows_developer: bool) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InvalidRequest(f"{where} must be an object with role and content")
    role = entry.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{where}.role must be one of: {', '.join(ROLES)}")
    if role == "developer" and not knows_developer:
        role = "system"
    calls = entry.get("tool_calls") if role == "assistant" else None
    content = _content(entry.get("content"), f"{where}.content", may_be_empty=role == "assistant")
    made: dict[str, Any] = {"role": role, "content": content}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(entry.get(name), str):
            made[name] = entry[name]
    if calls is not None:
        made["tool_calls"] = _calls(calls, f"{where}.tool_calls")
    return made


def _content(given: Any, where: str, *, may_be_empty: bool) -> str:
    if given is None and may_be_empty:
        return ""
    if isinstance(given, str):
        text = given
    elif isinstance(given, list) and given:
        text = "\n".join(_part(part, f"{where}.{at}") for at, part in enumerate(given))
    else:
        raise InvalidRequest(f"{where} must be a text, or a list of text parts")
    if (at := text.find("\0")) >= 0:
        raise InvalidRequest(f"{where} holds the character U+0000 at index {at}; take it out")
    return text


def _part(part: Any, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") not in TEXT_PARTS:
        kind = str(part.get("type"))[:64] if isinstance(part, dict) else type(part).__name__
        raise InvalidRequest(f"{where} has the type {kind!r}; the model takes text only")
    text = part.get("refusal" if part["type"] == "refusal" else "text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{where}.text must be a string")
    return text


def _calls(given: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or len(given) > MAX_TOOLS:
        raise InvalidRequest(f"{where} must be a list of at most {MAX_TOOLS} calls")
    return [_call(call, f"{where}.{at}") for at, call in enumerate(given)]


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest(f"{where}.function must have a name and arguments")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.DecodeError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"{where}.function.arguments must be a JSON object, as text")
    named = {"name": function["name"], "arguments": arguments}
    return {"id": str(call.get("id", "")), "type": "function", "function": named}


def tools_of(conversation: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Those that may be called, once they are checked. Raises InvalidRequest."""
    given = conversation.get(TOOLS)
    if given is None or given == [] or conversation.get(CHOICE) == "none":
        return None
    if not isinstance(given, list) or len(given) > MAX_TOOLS:
        raise InvalidRequest(f"tools must be a list of at most {MAX_TOOLS} tools")
    for at, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or tool.get("type") != "function":
            raise InvalidRequest(f'tools.{at} must have the type "function" and a function')
        if not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidRequest(f"tools.{at}.function.name is missing")
    return given


def _options(given: Any, known: set[str]) -> dict[str, Any]:
    """Switches of the template's own, for instance `enable_thinking`."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequest(f"{OPTIONS} must be an object")
    for name, value in given.items():
        if name not in known:
            raise InvalidRequest(f"{OPTIONS}.{name[:64]} is unknown to the model's chat template")
        if not isinstance(value, str | bool | int | float):
            raise InvalidRequest(f"{OPTIONS}.{name[:64]} must be a string, number or boolean")
    return given
