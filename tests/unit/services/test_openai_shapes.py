"""OpenAI's shapes as pure functions: parameters, tool calls, chunks and events."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import DeadlineExceeded, InvalidRequest
from app.core.parameters import Parameter
from app.core.types import Answer, Done, Failed, Piece, Usage
from app.services.inference_service import InferenceRequest, InferenceResult
from app.services.model_service import ServedVersion
from app.services.openai_chunks import Broken, ChatWriter, CompletionWriter, chunks
from app.services.openai_generation import (
    Asked,
    Head,
    asked_of_chat,
    asked_of_completion,
    chat_answer,
    completion_answer,
)
from app.services.openai_parameters import UnsupportedParameter, in_callers_words, parameters_of
from app.services.openai_responses import ResponseWriter, asked_of_response, response_answer
from app.services.openai_texts import embeddings_answer, pairs_of, rerank_results
from app.services.openai_tools import split_calls, without_calls
from app.tasks.catalogue import task_info

GENERATE = task_info("generate", "tokens").parameters
HEAD = Head("chatcmpl-1", 5, "generator:v1")
USER = [{"role": "user", "content": "a"}]
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "f"}}
MODEL = ServedVersion(
    "generator", "v1", ("v1",), "generate", "text", "openvino_llm", GENERATE, {}, "ready", "", True
)


def result(value: Any = "abc", reason: Any = "stop") -> InferenceResult:
    answer = Answer(value, {"finish_reason": reason}, Usage(3, 2))
    return InferenceResult(Done(answer), "generator:v1", "generator", 1.0)


def piece(text: str, index: int = 0) -> Piece:
    return Piece(text, 1, index)


async def events(*given: Any) -> AsyncIterator[Any]:
    for event in given:
        yield event


async def made(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


def asked(**given: Any) -> Asked:
    return Asked(given, [InferenceRequest("Once")], "tools" in given)


def chat_chunks(told: AsyncIterator[Any], wanted: Asked) -> AsyncIterator[Any]:
    return chunks(told, ChatWriter(HEAD, wanted))


def completion_chunks(told: AsyncIterator[Any], wanted: Asked) -> AsyncIterator[Any]:
    return chunks(told, CompletionWriter(HEAD, wanted))


def response_events(told: AsyncIterator[Any], wanted: Asked) -> AsyncIterator[Any]:
    return chunks(told, ResponseWriter(HEAD, wanted))


def said(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_parameters_get_our_names():
    sent = {
        "n": 2,
        "max_tokens": 5,
        "max_completion_tokens": 7,
        "stop": "a",
        "seed": -1,
        "top_k": -1,
    }
    assert parameters_of(sent, GENERATE, "m") == {
        "num_return_sequences": 2,
        "max_new_tokens": 7,
        "stop": ["a"],
        "seed": 2**53 - 1,
        "top_k": 0,
    }


STEERED = ("logit_bias", "min_p", "logprobs", "json_schema")
LEAST = tuple(p for p in GENERATE if p.name not in STEERED)


def test_what_a_task_does_not_declare_is_refused_by_name():
    with pytest.raises(UnsupportedParameter, match="logit_bias is not supported: m cannot do it"):
        parameters_of({"logit_bias": {"5": 1}}, LEAST, "m")
    assert parameters_of({"logit_bias": {}, "min_p": 0.0}, LEAST, "m") == {}
    taught = (*LEAST, Parameter("min_p", "number", 0, "Of the best."))
    assert parameters_of({"min_p": 0.1}, taught, "m") == {"min_p": 0.1}


def test_messages_use_the_callers_names():
    error = InvalidRequest("parameters.max_new_tokens must be at least 1, not 0")
    assert in_callers_words(error, ["max_completion_tokens"]) == (
        "max_completion_tokens must be at least 1, not 0",
        "max_completion_tokens",
    )
    assert in_callers_words(InvalidRequest("messages.0.role must be"), [])[1] == "messages"
    assert in_callers_words(InvalidRequest("The body is empty"), [])[1] is None


def test_a_chat_is_asked_as_a_conversation():
    sent = {
        "messages": USER,
        "temperature": 0.5,
        "logprobs": False,
        "response_format": {"type": "text"},
    }
    (request,) = asked_of_chat(sent, MODEL).requests
    assert request.inputs == {"messages": USER} and request.parameters == {"temperature": 0.5}


def test_messages_of_a_conversation_are_told_without_our_prefix():
    error = InvalidRequest("inputs.messages has 9 characters, at most 5 are taken")
    told = "messages has 9 characters, at most 5 are taken", "messages"
    assert in_callers_words(error, []) == told


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"functions": [{}]}, "functions is not supported: send tools"),
        ({"modalities": ["audio"]}, "modalities is not supported"),
        ({"tool_choice": "required"}, "tool_choice asks for a call, but tools is empty"),
        ({"top_logprobs": 2}, "top_logprobs is set, but logprobs is not true"),
        ({"response_format": {"type": "grammar"}}, "response_format is not supported"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema must"),
    ],
)
def test_chats_that_are_not_served_are_refused_by_name(sent: dict[str, Any], told: str):
    with pytest.raises(InvalidRequest, match=told):
        asked_of_chat({"messages": USER, **sent}, MODEL)


def test_schemas_reach_a_task_that_declares_them():
    taught = replace(
        MODEL, parameters=(*LEAST, Parameter("json_schema", "string", None, "A schema."))
    )
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    (request,) = asked_of_chat({"messages": USER, "response_format": form}, taught).requests
    assert json.loads(request.parameters["json_schema"]) == schema
    plain = {"messages": USER, "response_format": {"type": "json_object"}}
    (request,) = asked_of_chat(plain, taught).requests
    assert json.loads(request.parameters["json_schema"]) == {"type": "object"}


def test_tools_are_left_out_where_none_may_be_called():
    chat = asked_of_chat({"messages": USER, "tools": [TOOL], "tool_choice": "none"}, MODEL)
    assert chat.requests[0].inputs == {"messages": USER} and not chat.has_tools


def test_a_call_is_asked_for_in_either_form():
    chat = asked_of_chat({"messages": USER, "tools": [TOOL], "tool_choice": "required"}, MODEL)
    assert chat.requests[0].inputs == {
        "messages": USER,
        "tools": [TOOL],
        "tool_choice": "required",
    }
    named = {"type": "function", "name": "f"}
    sent = {"input": "a", "tools": [named], "tool_choice": named}
    (request,) = asked_of_response(sent, MODEL).requests
    assert request.inputs is not None
    assert request.inputs["tool_choice"]["function"] == {"name": "f"}


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"suffix": "b"}, "suffix is not supported"),
        ({"best_of": 1, "n": 2}, "best_of is 1, but n is 2"),
        ({"best_of": 3, "stream": True}, "which texts are best is not known"),
        ({"best_of": 65}, "best_of times the prompts is more than 128"),
        ({"n": 65}, "more than 128 choices"),
    ],
)
def test_completions_that_are_not_served_are_refused_by_name(sent: dict[str, Any], told: str):
    with pytest.raises(InvalidRequest, match=told):
        asked_of_completion(sent, MODEL, ["a", "b"], 100)


def test_the_best_of_several_are_those_of_the_highest_mean_logprob():
    sent = {"best_of": 3, "n": 2}
    best = asked_of_completion(sent, MODEL, ["a"], 100)
    assert best.requests[0].parameters == {"num_return_sequences": 3, "logprobs": 0}
    told = [[{"token": "x", "logprob": value}] * count for value, count in ((-2, 1), (-1, 9))]
    answer = Answer(
        ["a", "b", ""],
        {"finish_reason": ["stop", "length", "stop"], "logprobs": [*told, []]},
        Usage(1, 10),
    )
    shown = completion_answer(HEAD, best, [answer])
    assert [choice["text"] for choice in shown["choices"]] == ["b", "a"]
    assert [choice["logprobs"] for choice in shown["choices"]] == [None, None]
    assert shown["usage"]["completion_tokens"] == 10
    with pytest.raises(UnsupportedParameter, match="best_of is not supported: m cannot do it"):
        parameters_of({"best_of": 2}, (), "m")


def test_calls_are_split_from_the_text():
    text, calls = split_calls(f"I will.\n{CALL}\n{CALL}")
    assert text == "I will." and [call["function"]["name"] for call in calls] == ["f", "f"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"a": 1}
    assert calls[0]["id"] != calls[1]["id"]


@pytest.mark.parametrize(
    "text", ["plain", "<tool_call>\n{oops}\n</tool_call>", '<tool_call>["f"]</tool_call>']
)
def test_what_is_no_call_stays_text(text: str):
    assert split_calls(text) == (text, [])


def test_an_unfinished_call_that_can_be_read_is_one():
    assert len(split_calls('<tool_call>{"name": "f", "arguments": {}}')[1]) == 1


def test_a_call_ends_a_chat_for_its_own_reason():
    shown = chat_answer(HEAD, asked(tools=[TOOL]), Answer(CALL, {"finish_reason": "stop"}))
    (choice,) = shown["choices"]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None


@given(st.lists(st.text("<tol_ca>x", max_size=6)))
def test_what_was_shown_of_a_text_is_never_a_call(pieces: list[str]):
    text = ""
    for piece in pieces:
        text += piece
        safe = without_calls(text)
        assert "<tool_call>" not in text[:safe]
        assert text[safe:] == "" or "<tool_call>".startswith(text[safe:][:11])


async def test_chunks_name_the_role_once_and_end_with_the_reason():
    chunks = await made(chat_chunks(events(piece("ab"), piece("c"), result()), asked()))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "ab"}, {"content": "c"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_last_where_it_was_asked_for():
    wanted = asked(stream_options={"include_usage": True})
    chunks = await made(chat_chunks(events(piece("abc"), result()), wanted))
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_a_choice_ends_when_its_text_does_and_not_with_the_last():
    told = events(
        piece("a"),
        replace(piece("b"), request=1),
        replace(result("b", "length"), request=1),
        piece("c"),
        result("ac"),
    )
    parts = [part["choices"][0] for part in await made(completion_chunks(told, asked()))]
    assert [(part["index"], part["text"], part["finish_reason"]) for part in parts] == [
        (0, "a", None),
        (1, "b", None),
        (1, "", "length"),
        (0, "c", None),
        (0, "", "stop"),
    ]


async def test_several_answers_come_whole():
    chunks = await made(chat_chunks(events(result(["a", "b"], ["stop", "length"])), asked()))
    shown = [(c["choices"][0]["index"], c["choices"][0]["finish_reason"]) for c in chunks]
    assert shown == [(0, None), (0, None), (0, "stop"), (1, None), (1, None), (1, "length")]
    parts = await made(completion_chunks(events(result(["a", "b"], ["stop", "length"])), asked()))
    assert [part["choices"][0]["text"] for part in parts] == ["a", "b"]
    two = events(result("a"), replace(result("b", "length"), request=1))
    parts = await made(completion_chunks(two, asked()))
    assert [(part["choices"][0]["index"], part["choices"][0]["text"]) for part in parts] == [
        (0, "a"),
        (1, "b"),
    ]


TOLD = [
    {"token": "é", "logprob": -0.5, "top": [["é", -0.5], ["a", -1.5]]},
    {"token": "b", "logprob": -2.0, "top": []},
]


async def test_how_likely_tokens_were_is_told_in_both_shapes():
    answer = Answer("éb", {"finish_reason": "stop", "logprobs": TOLD}, Usage(1, 2))
    told = chat_answer(HEAD, asked(), answer)["choices"][0]["logprobs"]
    assert told["content"][0]["bytes"] == [195, 169] and told["content"][1]["logprob"] == -2.0
    assert [top["token"] for top in told["content"][0]["top_logprobs"]] == ["é", "a"]
    shown = completion_answer(HEAD, asked(), [answer])["choices"][0]["logprobs"]
    assert shown == {
        "tokens": ["é", "b"],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"é": -0.5, "a": -1.5}, {}],
        "text_offset": [0, 1],
    }
    end = InferenceResult(Done(answer), "generator:v1", "generator", 1.0)
    chunks = await made(chat_chunks(events(piece("éb"), end), asked()))
    assert chunks[-1]["choices"][0]["logprobs"] == told
    parts = await made(completion_chunks(events(piece("éb"), end), asked()))
    assert parts[-1]["choices"][0]["logprobs"] == shown
    echoed = completion_answer(HEAD, asked(echo=True), [answer])["choices"][0]["logprobs"]
    assert echoed["text_offset"] == [4, 5]


async def test_several_answers_may_come_as_pieces():
    pieces = piece("a", 0), piece("b", 1)
    end = result(["a", "b"], ["stop", "length"])
    chunks = await made(chat_chunks(events(*pieces, end), asked()))
    shown = [(c["choices"][0]["index"], c["choices"][0]["delta"].get("content")) for c in chunks]
    assert shown == [(0, ""), (0, "a"), (1, ""), (1, "b"), (0, None), (1, None)]


async def test_a_broken_stream_ends_there():
    failed = InferenceResult(Failed(DeadlineExceeded()), "generator:v1", "generator", 1.0)
    for make in (chat_chunks, completion_chunks, response_events):
        *_, last = await made(make(events(piece("a"), failed), asked(input="a")))
        assert isinstance(last, Broken)


@given(st.text("ab<tool_call>{}", max_size=30), st.integers(1, 5))
async def test_chunks_add_up_to_the_text(text: str, size: int):
    pieces = [piece(text[at : at + size]) for at in range(0, len(text), size)]
    for wanted in (asked(), asked(tools=[TOOL])):
        chunks = await made(chat_chunks(events(*pieces, result(text)), wanted))
        assert said(chunks) == text
    parts = await made(completion_chunks(events(*pieces, result(text)), asked()))
    assert "".join(part["choices"][0]["text"] for part in parts) == text


@given(st.integers(1, 9))
async def test_calls_come_whole_behind_the_text(size: int):
    text = f"Well. {CALL}"
    pieces = [piece(text[at : at + size]) for at in range(0, len(text), size)]
    chunks = await made(chat_chunks(events(*pieces, result(text)), asked(tools=[TOOL])))
    assert said(chunks).strip() == "Well."
    assert chunks[-2]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "f"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_response_is_asked_as_a_chat():
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "b"},
    ]
    sent = {"input": items, "instructions": "be", "max_output_tokens": 5}
    (request,) = asked_of_response(sent, MODEL).requests
    assert request.inputs is not None
    roles = [message["role"] for message in request.inputs["messages"]]
    assert roles == ["system", "user", "assistant", "tool"]
    assert request.parameters == {"max_new_tokens": 5}


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"previous_response_id": "a"}, "previous_response_id is not supported: nothing is kept"),
        ({"background": True}, "background is not supported"),
        ({"truncation": "auto"}, "truncation is not supported"),
        ({"input": [{"type": "item_reference"}]}, "input.0 has the type 'item_reference'"),
        ({"tools": [{"type": "web_search"}]}, "tools.0 must have the type"),
    ],
)
def test_responses_that_are_not_served_are_refused_by_name(sent: dict[str, Any], told: str):
    with pytest.raises(InvalidRequest, match=told):
        asked_of_response({"input": "a", **sent}, MODEL)


def test_a_response_says_when_a_limit_ended_it():
    shown = response_answer(HEAD, asked(input="a"), Answer("b", {"finish_reason": "length"}))
    assert shown["status"] == "incomplete"
    assert shown["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_events_of_a_response_are_numbered_and_add_up():
    shown = await made(response_events(events(piece("ab"), piece("c"), result()), asked(input="a")))
    assert [event["sequence_number"] for event in shown] == list(range(len(shown)))
    assert [event["type"].removeprefix("response.") for event in shown] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert shown[-1]["response"]["output"][0]["content"][0]["text"] == "abc"


async def test_calls_are_items_of_a_response():
    shown = await made(
        response_events(events(piece(CALL), result(CALL)), asked(input="a", tools=[TOOL]))
    )
    assert "response.output_text.delta" not in {event["type"] for event in shown}
    (item,) = shown[-1]["response"]["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "f", '{"a":1}')


def test_vectors_may_come_as_bytes():
    shown = embeddings_answer([Answer([1.0, -2.0])], "m", as_base64=True)
    assert shown["data"][0]["embedding"] == "AACAPwAAAMA="


def test_pairs_are_one_with_all_or_each_with_its_own():
    assert pairs_of(["a"], ["b", "c"]) == [("a", "b"), ("a", "c")]
    assert pairs_of(["a", "b"], ["c", "d"]) == [("a", "c"), ("b", "d")]
    with pytest.raises(InvalidRequest, match="text_1 has 2 texts and text_2 3"):
        pairs_of(["a", "b"], ["c", "d", "e"])


def test_ranks_are_best_first_and_stable():
    shown = rerank_results([0.1, 0.5, 0.5], ["a", "b", "c"], 2, with_documents=True)
    assert [entry["index"] for entry in shown] == [1, 2]
    assert shown[0]["document"] == {"text": "b"}
