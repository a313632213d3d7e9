"""The further parts of the scenario of OpenAI's client: what steers a text, and other tasks."""

import json
from typing import Any

import httpx
import openai
from pydantic import BaseModel

from tests.e2e.openai_talk import CAPITAL, COLOURS, Talk, each, got

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "description": "Weather of a city", "parameters": CITY}
TOOLS = [
    {"type": "function", "function": WEATHER},
    {"type": "function", "function": {"name": "now", "description": "The time"}},
]
ASKED = [{"role": "user", "content": "What is the weather in Oslo?"}]
TOOLFUL = {"model": "generator:tools", "messages": ASKED, "tools": TOOLS, "max_tokens": 40}


class Bridge(BaseModel):
    arches: int
    is_old: bool


async def logprobs(talk: Talk) -> None:
    how = {"logprobs": True, "top_logprobs": 2, "stop": " of", "max_tokens": 9}
    told = (await talk.chat(**how)).choices[0]
    content = told.logprobs.content
    assert "".join(token.token for token in content) == f"{told.message.content} of"
    assert all(token.top_logprobs[0].token == token.token for token in content)
    assert bytes(b for token in content for b in token.bytes).decode() == "The capital of"
    chunks = await talk.chunks(**how)
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [token for part in parts for token in part.content] == content and len(parts) > 1
    drawn = {"n": 2, "temperature": 1.0, "seed": 4, "logprobs": 1, "stop": ["e", "\n"]}
    prompts = ["Once upon a", "Grüße aus 日本"]
    whole = await talk.complete(prompts, **drawn)
    made: dict[int, list[Any]] = {choice.index: [] for choice in whole.choices}
    order = []
    async for chunk in each(await talk.complete(prompts, stream=True, **drawn)):
        made[chunk.choices[0].index].append(chunk.choices[0])
        order.append(chunk.choices[0].index)
    for choice in whole.choices:
        pieces = [part.logprobs for part in made[choice.index] if part.logprobs]
        assert "".join(part.text for part in made[choice.index]) == choice.text
        assert made[choice.index][-1].finish_reason == choice.finish_reason
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            values = [value for piece in pieces for value in getattr(piece, name)]
            assert values == getattr(choice.logprobs, name)
    assert order != sorted(order)
    best = await talk.complete("One", n=1, best_of=3, temperature=1.0, seed=2)
    assert len(best.choices) == 1 and best.usage.completion_tokens > 8


async def schemas(talk: Talk) -> None:
    anything = await talk.chat(response_format={"type": "json_object"}, max_tokens=30)
    if anything.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(anything.choices[0].message.content), dict)
    schema = {"name": "city", "schema": CITY}
    form = {"type": "json_schema", "json_schema": schema}
    for seed in range(3):
        made = await talk.chat(response_format=form, temperature=1.0, seed=seed, max_tokens=40)
        assert json.loads(made.choices[0].message.content)["city"] in ("Oslo", "Rome")
    chunks = await talk.chunks(response_format=form, max_tokens=40)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert json.loads(text)["city"] in ("Oslo", "Rome")
    talk.calls += 1
    parsed = await got(
        talk.client.chat.completions.parse(
            model="generator", messages=CAPITAL, response_format=Bridge, max_tokens=40
        )
    )
    assert isinstance(parsed.choices[0].message.parsed, Bridge)
    hostile = {**form, "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
    failed = await talk.fails(
        openai.UnprocessableEntityError, lambda: talk.chat(response_format=hostile)
    )
    assert failed.param == "response_format"


async def tools(talk: Talk) -> None:
    called = await talk.chat(**{**TOOLFUL, "tool_choice": "required"})
    (choice,) = called.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    calls = [("now", {}), ("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})]
    assert (call.function.name, json.loads(call.function.arguments)) in calls
    named = {"type": "function", "function": {"name": "weather"}}
    chunks = await talk.chunks(**{**TOOLFUL, "tool_choice": named, "temperature": 1.0})
    (streamed,) = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert streamed.function.name == "weather"
    assert json.loads(streamed.function.arguments)["city"] in ("Oslo", "Rome")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    turns = [
        *ASKED,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."},
    ]
    after = await talk.chat(**{**TOOLFUL, "messages": turns, "tool_choice": "none"})
    assert after.choices[0].message.tool_calls is None
    free = await talk.chat(**{**TOOLFUL, "tool_choice": "auto", "max_tokens": 5})
    assert free.usage.prompt_tokens < called.usage.prompt_tokens < free.usage.prompt_tokens + 10
    flat = [{"type": "function", **WEATHER}]
    answer = await talk.respond(
        "Rome?", model="generator:tools", tools=flat, tool_choice="required"
    )
    assert answer.output[0].type == "function_call" and answer.output[0].name == "weather"
    unknown = {"type": "function", "function": {"name": "nope"}}
    failed = await talk.fails(
        openai.UnprocessableEntityError, lambda: talk.chat(**{**TOOLFUL, "tool_choice": unknown})
    )
    assert failed.param == "tool_choice"


async def other_tasks(talk: Talk) -> None:
    """What the client has no methods for, it can post."""
    talk.calls += 3
    bodies: dict[str, dict[str, Any]] = {
        "/rerank": {"model": "embedder", "query": "a cat", "documents": ["a car", "my cat"]},
        "/score": {"model": "embedder", "text_1": "a cat", "text_2": ["a car", "my cat"]},
        "/classify": {"model": "sentiment", "input": ["I love it!", "I hate it."]},
    }
    made = {
        path: (await got(talk.client.post(path, cast_to=httpx.Response, body=body))).json()
        for path, body in bodies.items()
    }
    assert [entry["index"] for entry in made["/rerank"]["results"]] == [1, 0]
    scores = [entry["score"] for entry in made["/score"]["data"]]
    assert scores[0] < scores[1]
    assert [entry["label"] for entry in made["/classify"]["data"]] == ["positive", "negative"]


async def leaving(talk: Talk) -> None:
    """A stream that is left open midway, and then another request of the same client."""
    stream = await talk.chat(COLOURS, stream=True, max_tokens=500)
    async for _ in each(stream):
        break
    await got(stream.close())
    assert (await talk.chat(max_tokens=2)).choices


STEERED_PARTS = (logprobs, schemas, tools, other_tasks, leaving)
