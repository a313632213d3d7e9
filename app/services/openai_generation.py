"""OpenAI's chat and completions over our service: requests in, answers out. Knows no wire.

Texts are made by `inference_service.py`; the model's chat template is applied where its tokenizer
is, in the worker (app/tasks/conversation.py).
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from app.core.errors import InvalidRequest
from app.core.texts import problem_of_text
from app.core.types import Answer
from app.services.inference_service import InferenceRequest
from app.services.model_service import ServedVersion
from app.services.openai_logprobs import logprobs_of, mean_logprob, of_chat, of_completion
from app.services.openai_parameters import UnsupportedParameter, parameters_of
from app.services.openai_tools import split_calls

MAX_CHOICES = 128  # of all prompts of a completion together


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for. given: the fields that were sent. requests: one per prompt. is_ranked:
    more texts are written than are answered, the best of them."""

    given: Mapping[str, Any]
    requests: list[InferenceRequest]
    has_tools: bool = False
    is_ranked: bool = False

    @property
    def choices_each(self) -> int:
        count: int = self.given.get("n", 1)
        return count

    def chars_in_front(self, choice: int) -> int:
        """Of the prompt, where it is repeated."""
        is_echoed = self.given.get("echo", False)
        return len(self.requests[choice // self.choices_each].text) if is_echoed else 0


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of an answer repeats."""

    id: str
    created: int
    model: str

    def fields(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def new_id(prefix: str) -> str:
    """As OpenAI joins the words: by a dash, or in newer parts by an underscore."""
    joint = "_" if prefix in ("resp", "msg", "fc") else "-"
    return f"{prefix}{joint}{secrets.token_hex(12)}"


def asked_of_chat(given: Mapping[str, Any], found: ServedVersion) -> Asked:
    """Raises InvalidRequest that names the field."""
    key = f"{found.name}:{found.version}"
    if not found.chats:
        raise InvalidRequest(f"model {key} does not chat, its task is {found.task}")
    tools = _tools(given)
    conversation = {"messages": given["messages"]}
    if tools:
        conversation["tools"] = tools
        conversation["tool_choice"] = given.get("tool_choice", "auto")
    if "chat_template_kwargs" in given:
        conversation["chat_template_kwargs"] = given["chat_template_kwargs"]
    parameters = parameters_of(_plain(given), found.parameters, key)
    request = InferenceRequest("", found.name, found.version, parameters, conversation)
    return Asked(given, [request], bool(tools))


def asked_of_completion(
    given: Mapping[str, Any], found: ServedVersion, prompts: Sequence[str], max_chars: int
) -> Asked:
    """Raises InvalidRequest that names the field."""
    key = f"{found.name}:{found.version}"
    if found.task != "generate":
        raise InvalidRequest(f"model {key} does not complete texts, its task is {found.task}")
    if given.get("suffix"):
        raise UnsupportedParameter("suffix", "models here continue a text at its end")
    is_ranked = _is_ranked(given)
    if len(prompts) * given.get("best_of", given.get("n", 1)) > MAX_CHOICES:
        name = "best_of" if is_ranked else "n"
        raise InvalidRequest(f"{name} times the prompts is more than {MAX_CHOICES} choices")
    for prompt in prompts:
        if (problem := problem_of_text(prompt, max_chars)) is not None:
            raise InvalidRequest(f"prompt {problem}")
    ranked_by = {"logprobs": given.get("logprobs", 0)} if is_ranked else {}
    parameters = parameters_of({**given, **ranked_by}, found.parameters, key)
    requests = [InferenceRequest(text, found.name, found.version, parameters) for text in prompts]
    return Asked(given, requests, is_ranked=is_ranked)


def _is_ranked(given: Mapping[str, Any]) -> bool:
    count = given.get("n", 1)
    best_of = given.get("best_of", count)
    if best_of < count:
        raise InvalidRequest(f"best_of is {best_of}, but n is {count}; raise best_of to n at least")
    if best_of > count and given.get("stream"):
        raise InvalidRequest(
            f"best_of is {best_of} and n {count}, and which texts are best is not known before "
            "their ends; leave out stream or best_of"
        )
    return bool(best_of > count)


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a chat whose form is another one in our parameters."""
    plain = dict(given)
    if given.get("functions"):
        raise UnsupportedParameter("functions", "send tools")
    if given.get("modalities", ["text"]) != ["text"]:
        raise UnsupportedParameter("modalities", "the model writes text only")
    top = plain.pop("top_logprobs", None)
    if not plain.pop("logprobs", False):
        if top:
            raise InvalidRequest("top_logprobs is set, but logprobs is not true; set both")
    else:
        plain["logprobs"] = top or 0
    if (schema := _schema(plain.pop("response_format", {"type": "text"}))) is not None:
        plain["response_format"] = schema
    return plain


def _schema(form: Mapping[str, Any]) -> str | None:
    """The text of the JSON schema that the answer has to fit; None: any text."""
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            schema: Any = {"type": "object"}
        case "json_schema":
            said = form.get("json_schema")
            schema = said.get("schema") if isinstance(said, dict) else None
            if not isinstance(schema, dict | bool):
                raise InvalidRequest("response_format.json_schema.schema must be an object")
        case other:
            raise UnsupportedParameter("response_format", f"its type is {str(other)[:64]!r}")
    return msgspec.json.encode(schema).decode()


def _tools(given: Mapping[str, Any]) -> list[Any]:
    """Those that the model may call; who has to call one is told by its worker (tool_calls.py)."""
    choice = given.get("tool_choice", "auto")
    tools: list[Any] = given.get("tools", [])
    if choice not in ("auto", "none") and not tools:
        raise InvalidRequest("tool_choice asks for a call, but tools is empty; send both")
    return [] if choice == "none" else tools


def usage_of(answers: Sequence[Answer]) -> dict[str, int]:
    prompt = sum(answer.usage.input_tokens for answer in answers)
    written = sum(answer.usage.output_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


def as_list(value: Any) -> list[Any]:
    """A result is a list where several continuations were asked for."""
    return value if isinstance(value, list) else [value]


def texts_of_answer(answer: Answer) -> list[tuple[str, str, Any]]:
    """Each text with the reason of its end and what is told of its tokens."""
    texts, reasons = as_list(answer.value), as_list(answer.metadata["finish_reason"])
    return list(zip(texts, reasons, logprobs_of(answer, len(texts)), strict=True))


def chat_answer(head: Head, asked: Asked, answer: Answer) -> dict[str, Any]:
    choices = [
        _choice(index, text, reason, of_chat(told), asked)
        for index, (text, reason, told) in enumerate(texts_of_answer(answer))
    ]
    shown = {**head.fields("chat.completion"), "choices": choices}
    return {**shown, "usage": usage_of([answer])}


def _choice(index: int, text: str, reason: str, logprobs: Any, asked: Asked) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if asked.has_tools:
        before, calls = split_calls(text)
        if calls:
            message |= {"content": before or None, "tool_calls": calls}
            reason = "tool_calls"
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _chosen(asked: Asked, answer: Answer) -> list[tuple[str, str, Any]]:
    """The texts of an answer; where they are ranked, the best of them, by their mean logprob."""
    written = texts_of_answer(answer)
    if not asked.is_ranked:
        return written
    best = sorted(written, key=lambda each: mean_logprob(each[2]), reverse=True)
    shows = "logprobs" in asked.given
    return [(text, why, told if shows else None) for text, why, told in best][: asked.choices_each]


def completion_answer(head: Head, asked: Asked, answers: Sequence[Answer]) -> dict[str, Any]:
    """Choices go prompt by prompt."""
    written = [each for answer in answers for each in _chosen(asked, answer)]
    choices = []
    for at, (text, reason, told) in enumerate(written):
        logprobs = of_completion(told, asked.chars_in_front(at))
        shown = {"index": at, "text": text, "logprobs": logprobs, "finish_reason": reason}
        choices.append(shown)
    return {**head.fields("text_completion"), "choices": choices, "usage": usage_of(answers)}
