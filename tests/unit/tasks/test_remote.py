"""Our words as OpenAI's, and another server's answers as ours."""

import json
from typing import Any

import pytest

from app.core.errors import InvalidRequest
from app.core.parameters import resolve
from app.core.types import Usage
from app.services.openai_tools import split_calls
from app.tasks.remote import AnswerBrokeOff, MalformedAnswer
from app.tasks.remote_embed import RemoteEmbed
from app.tasks.remote_generate import RemoteGenerate
from app.tasks.remote_parameters import REMOTE_EMBED, REMOTE_GENERATE, may_differ

ASKED = [{"role": "user", "content": "Weather?"}]
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = {"function": {"name": "weather", "arguments": '{"at": "</tool_call>"}'}, "id": "x"}


def prepared(given: Any, *, stream: bool = False, **parameters: Any):
    return RemoteGenerate().prepare(given, resolve(REMOTE_GENERATE, parameters), stream=stream)


def event(**said: Any) -> bytes:
    return json.dumps(said).encode()


def delta(**said: Any) -> bytes:
    return event(choices=[{"delta": said}])


def test_only_what_was_given_is_asked_for():
    call, _ = prepared("Once upon")
    assert (call.path, call.body, call.streams) == ("completions", {"prompt": "Once upon"}, False)


def test_parameters_have_openais_names():
    given = {
        "max_new_tokens": 5,
        "min_new_tokens": 1,
        "num_return_sequences": 2,
        "temperature": 0.5,
        "frequency_penalty": 0,
        "seed": 7,
        "stop": ["\n"],
        "top_k": 3,
    }
    call, _ = prepared("Once", stream=True, **given)
    assert call.body == {
        "prompt": "Once",
        "max_tokens": 5,
        "min_tokens": 1,
        "n": 2,
        "temperature": 0.5,
        "frequency_penalty": 0.0,
        "seed": 7,
        "stop": ["\n"],
        "top_k": 3,
    }
    assert not call.streams, "several texts come whole"


def test_a_conversation_goes_as_messages_with_its_tools_and_form():
    tool = {"type": "function", "function": {"name": "weather"}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "type": "function"}]},
        {"role": "tool", "tool_call_id": "x", "content": "Rain."},
    ]
    schema = {"type": "object", "required": ["a"]}
    given = {"messages": messages, "tools": [tool], "chat_template_kwargs": {"thinking": False}}
    call, _ = prepared(given, stream=True, json_schema=json.dumps(schema))
    assert call.path == "chat/completions" and call.streams
    assert call.body["stream"] and call.body["stream_options"] == {"include_usage": True}
    assert call.body["messages"][0] == {"role": "developer", "content": "Be brief."}
    (sent,) = call.body["messages"][1]["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"at": "</tool_call>"}
    assert call.body["tools"] == [tool]
    assert call.body["chat_template_kwargs"] == {"thinking": False}
    assert call.body["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("choice", "sent"),
    [("auto", None), ("required", "required"), (NAMED, NAMED)],
    ids=["may", "must", "must call one"],
)
def test_a_call_that_is_forced_is_asked_of_the_server_behind(choice, sent):
    tool = {"type": "function", "function": {"name": "weather"}}
    call, _ = prepared({"messages": ASKED, "tools": [tool], "tool_choice": choice})
    assert call.body["tools"] == [tool]
    assert call.body.get("tool_choice") == sent


def test_tools_that_may_not_be_called_are_not_sent():
    tool = {"type": "function", "function": {"name": "weather"}}
    call, _ = prepared({"messages": ASKED, "tools": [tool], "tool_choice": "none"})
    assert "tools" not in call.body and "tool_choice" not in call.body


def test_any_object_is_asked_for_as_every_server_knows_it():
    call, _ = prepared({"messages": ASKED}, json_schema='{"type": "object"}')
    assert call.body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("given", "parameters", "words"),
    [
        ("text", {"json_schema": "{}"}, "parameters.json_schema goes with"),
        ({"messages": ASKED}, {"json_schema": "{"}, "parameters.json_schema is not JSON"),
        ({"messages": ASKED}, {"return_full_text": True}, "parameters.return_full_text"),
        ({"messages": []}, {}, "messages must be a list"),
        ({"messages": ASKED, "files": []}, {}, "inputs.files is unknown"),
        ({"messages": ASKED, "chat_template_kwargs": 1}, {}, "must be an object"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(given, parameters, words):
    with pytest.raises(InvalidRequest, match=words):
        prepared(given, **parameters)


@pytest.mark.parametrize("name", ["num_beams", "do_sample", "max_length", "logprobs"])
def test_what_openai_has_no_field_for_is_no_parameter(name):
    with pytest.raises(InvalidRequest, match=f"parameters.{name} is unknown"):
        resolve(REMOTE_GENERATE, {name: 1})


def test_a_whole_answer_has_its_texts_reasons_and_usage():
    _, reader = prepared("Once", num_return_sequences=2, return_full_text=True, seed=3)
    choices = [{"text": " a"}, {"text": " b", "finish_reason": "length"}]
    usage = {"prompt_tokens": 1, "completion_tokens": 4}
    answer = reader.whole(event(choices=choices, usage=usage, id="ignored"))
    assert answer.value == ["Once a", "Once b"]
    assert answer.metadata == {"finish_reason": ["stop", "length"], "seed": 3}
    assert answer.usage == Usage(1, 4)


def test_calls_of_functions_come_back_exactly_whole_or_in_parts():
    _, reader = prepared({"messages": ASKED})
    message = {"content": "Let me see.", "tool_calls": [CALL, CALL]}
    answer = reader.whole(event(choices=[{"message": message, "finish_reason": "tool_calls"}]))
    before, calls = split_calls(answer.value)
    assert before == "Let me see." and answer.metadata["finish_reason"] == "stop"
    assert [call["function"] for call in calls] == [CALL["function"]] * 2

    _, reader = prepared({"messages": ASKED}, stream=True)
    name = {"index": 1, "id": "x", "function": {"name": "weather", "arguments": '{"at": '}}
    told = [
        reader.take(delta(role="assistant", content=None, tool_calls=[name])),
        reader.take(delta(tool_calls=[{"index": 1, "function": {"arguments": '"</tool_call>"}'}}])),
    ]
    _, (call,) = split_calls(reader.end(is_complete=True).value)
    assert told == [("", 0)] * 2 and call["function"] == CALL["function"]


def test_pieces_of_a_stream_begin_with_the_prompt_where_it_is_wanted():
    _, reader = prepared("Once", stream=True, return_full_text=True)
    events = [event(choices=[{"text": text}]) for text in ("", " upon", " a")]
    assert [reader.take(said) for said in events] == [("", 0), ("Once upon", 1), (" a", 1)]
    reader.take(event(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 9}))
    answer = reader.end(is_complete=True)
    assert (answer.value, answer.usage) == ("Once upon a", Usage(1, 9))


def test_without_usage_the_pieces_are_counted_and_it_is_said():
    _, reader = prepared("Once", stream=True)
    reader.take(event(choices=[{"text": " a", "finish_reason": "stop"}]))
    answer = reader.end(is_complete=False)
    assert answer.usage == Usage(0, 1) and answer.metadata["usage_unknown"] is True


def test_what_a_stream_used_so_far_is_what_was_counted_or_told():
    _, reader = prepared("Once", stream=True)
    reader.take(event(choices=[{"text": " a"}]))
    assert reader.used() == Usage(0, 1)
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    reader.take(event(choices=[{"text": " b c"}], usage=usage))
    assert reader.used() == Usage(5, 3)


def test_a_stream_that_neither_ends_nor_says_why_broke_off():
    _, reader = prepared("Once", stream=True)
    reader.take(event(choices=[{"text": " a"}]))
    with pytest.raises(AnswerBrokeOff):
        reader.end(is_complete=False)
    with pytest.raises(AnswerBrokeOff):
        reader.take(event(error={"message": "no memory"}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{"text": 3}]}',
        b'{"choices": [{"text": "a"}, {"text": "b"}]}',
        b'{"choices": [{"text": "a"}], "usage": {"prompt_tokens": -1}}',
        b'{"choices": [{"text": "\xff"}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_answer_is_said_to_be_none(content):
    _, reader = prepared("Once")
    with pytest.raises(MalformedAnswer):
        reader.whole(content)


def test_more_calls_than_anybody_makes_are_no_answer():
    _, reader = prepared({"messages": ASKED}, stream=True)
    calls = [{"index": at, "function": {"name": "f"}} for at in range(129)]
    with pytest.raises(MalformedAnswer):
        reader.take(delta(tool_calls=calls))


def test_vectors_are_asked_for_as_numbers():
    parameters = resolve(REMOTE_EMBED, {"dimensions": 2})
    call, reader = RemoteEmbed().prepare("a cat", parameters, stream=True)
    body = {"input": ["a cat"], "encoding_format": "float", "dimensions": 2}
    assert (call.path, call.body, call.streams) == ("embeddings", body, False)
    answer = reader.whole(event(data=[{"embedding": [1, 0.5]}], usage={"prompt_tokens": 2}))
    assert (answer.value, answer.metadata) == ([1.0, 0.5], {"dimensions": 2})
    assert answer.usage == Usage(2, 0)


@pytest.mark.parametrize("data", [[], [{"embedding": []}], [{"embedding": "AAAA"}], [{}]])
def test_what_is_no_vector_is_no_answer(data):
    _, reader = RemoteEmbed().prepare("a cat", resolve(REMOTE_EMBED, {}), stream=False)
    with pytest.raises(MalformedAnswer):
        reader.whole(event(data=data))


def test_only_the_likeliest_tokens_are_the_same_again():
    assert not may_differ(resolve(REMOTE_GENERATE, {"temperature": 0}), {})
    for given in ({}, {"temperature": 0.1}, {"seed": 3}):
        assert may_differ(resolve(REMOTE_GENERATE, given), {})
