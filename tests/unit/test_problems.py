"""What is wrong with a body, in our words."""

from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.schemas.openai_common import OpenAiBody, parse_openai
from app.schemas.openai_generation import ChatBody, CompletionBody
from app.schemas.openai_responses import ResponsesBody
from app.schemas.openai_texts import EmbeddingsBody
from app.schemas.request import Limits, parse_infer

BODIES: dict[type[OpenAiBody], dict[str, Any]] = {
    ChatBody: {"model": "a", "messages": []},
    CompletionBody: {"model": "a", "prompt": "b"},
    ResponsesBody: {"model": "a", "input": "b"},
    EmbeddingsBody: {"model": "a", "input": "b"},
}


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        (ResponsesBody, {"input": 5}, "input must be a string or a list, not a number."),
        (ResponsesBody, {"input": None}, "input must be a string or a list, not null."),
        (ChatBody, {"tool_choice": 4}, "tool_choice must be a string or an object, not a number."),
        (ChatBody, {"stop": 4}, "stop must be a string or a list of strings, not a number."),
        (ChatBody, {"stop": ["a", 5]}, "stop.1 must be a string, not a number."),
        (ChatBody, {"n": 0}, "n must be at least 1, not 0."),
        (ChatBody, {"seed": 1.5}, "seed must be a whole number, not 1.5."),
        (ChatBody, {"n": True}, "n must be a whole number, not a boolean."),
        (ChatBody, {"temperature": "hot"}, "temperature must be a number, not a string."),
        (ChatBody, {"stream": "yes"}, "stream must be true or false, not a string."),
        (CompletionBody, {"model": "a" * 300}, "model must have at most 257 characters."),
        (
            EmbeddingsBody,
            {"encoding_format": "hex"},
            "encoding_format must be 'float' or 'base64'.",
        ),
    ],
)
def test_a_field_that_is_wrong_is_named_with_what_is_taken(
    kind: type[OpenAiBody], change: dict[str, Any], told: str
):
    with pytest.raises(InvalidRequest) as refused:
        parse_openai(kind, {**BODIES[kind], **change})
    assert str(refused.value) == told


def test_of_several_wrong_fields_each_is_told_once():
    with pytest.raises(InvalidRequest) as refused:
        parse_openai(ChatBody, {"model": "a", "messages": 3, "stop": 4, "tool_choice": []})
    details: Any = getattr(refused.value, "details")
    assert sorted(each["field"] for each in details) == ["messages", "stop", "tool_choice"]
    assert str(refused.value).endswith("(2 more in details)")


def test_a_stream_is_wanted_or_not():
    with pytest.raises(InvalidRequest, match="^stream must be true or false, not a string.$"):
        parse_infer({"text": "a", "stream": "yes"}, Limits(100, 10))
