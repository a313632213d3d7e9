"""What OpenAI's own client does with a running server: one scenario for its two kinds of client."""

import base64
from functools import partial
from typing import Any

import numpy as np
import openai

from tests.e2e.openai_steered import STEERED_PARTS
from tests.e2e.openai_talk import CAPITAL, COLOURS, Talk, each, got

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


async def models(talk: Talk) -> None:
    talk.calls += 4
    shown = [model async for model in each(talk.client.models.list())]
    assert {"generator", "generator:v1", "embedder", "sentiment"} <= {model.id for model in shown}
    assert (await got(talk.client.models.retrieve("generator:v1"))).object == "model"
    for name in ("nobody", "generator:v9"):
        missing = partial(talk.client.models.retrieve, name)
        failed = await talk.fails(openai.NotFoundError, missing)
        assert failed.code == "model_not_found"


async def chats(talk: Talk) -> None:
    answer = await talk.chat()
    (choice,) = answer.choices
    assert "Paris" in choice.message.content and choice.finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model == "generator:v1"
    same = await talk.chat(
        [{"role": "user", "content": [{"type": "text", "text": CAPITAL[0]["content"]}]}]
    )
    assert same.choices[0].message.content == choice.message.content
    cut = await talk.chat(COLOURS, max_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
    newer = await talk.chat(COLOURS, max_tokens=openai.omit, max_completion_tokens=2)
    assert newer.usage.completion_tokens == 2
    system = [{"role": "system", "content": "You are a pirate."}, *COLOURS]
    developer = [{"role": "developer", "content": "You are a pirate."}, *COLOURS]
    texts = [(await talk.chat(m)).choices[0].message.content for m in (system, developer)]
    assert texts[0] == texts[1]
    turns = [*CAPITAL, {"role": "assistant", "content": "Paris."}, *COLOURS]
    assert (await talk.chat(turns)).usage.prompt_tokens > answer.usage.prompt_tokens
    assert (await talk.chat(user="u-1", extra_body={"fancy": 1})).choices


async def sampling(talk: Talk) -> None:
    how = {"temperature": 0.9, "top_p": 0.9, "max_tokens": 12}
    first, second = [await talk.chat(COLOURS, seed=7, **how) for _ in range(2)]
    assert first.choices[0].message.content == second.choices[0].message.content
    several = await talk.chat(COLOURS, n=3, seed=-9, **how)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in several.choices}) > 1
    calm = await talk.chat(COLOURS, frequency_penalty=0.5, presence_penalty=0.5)
    assert calm.choices[0].message.content
    stopped = await talk.chat(stop=[" of", "France"])
    assert stopped.choices[0].message.content == "The capital"
    assert stopped.choices[0].finish_reason == "stop"
    assert (await talk.chat(stop=" is")).choices[0].message.content == "The capital of France"
    assert (await talk.chat(extra_body={"top_k": 5, "min_tokens": 2})).choices


async def streams(talk: Talk) -> None:
    plain = await talk.chat(COLOURS)
    chunks = await talk.chunks(messages=COLOURS, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == plain.usage and chunks[-1].choices == []
    assert len(chunks) > 5
    stopped = await talk.chunks(stop="France")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stopped)
    assert text == "The capital of "
    several = await talk.chunks(messages=COLOURS, n=2, temperature=0.8, seed=1)
    assert {chunk.choices[0].index for chunk in several} == {0, 1}
    whole = await talk.complete("Once upon a time")
    stream = await talk.complete("Once upon a time", stream=True)
    parts = [chunk.choices[0].text async for chunk in each(stream)]
    assert "".join(parts) == whole.choices[0].text


async def completions(talk: Talk) -> None:
    answer = await talk.complete(["Once upon a time", "One, two,"])
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert 0 < answer.usage.completion_tokens <= 16
    alone = await talk.complete("One, two,")
    assert alone.choices[0].text == answer.choices[1].text
    echo = await talk.complete("One, two,", echo=True)
    assert echo.choices[0].text == f"One, two,{alone.choices[0].text}"
    several = await talk.complete("One", n=2, temperature=0.9, best_of=2)
    assert len(several.choices) == 2


async def vectors(talk: Talk) -> None:
    answer = await talk.embed(["a cat", "a dog"])  # the client asks for base64 by itself
    numbers = await talk.embed(["a cat", "a dog"], encoding_format="float")
    for one, other in zip(answer.data, numbers.data, strict=True):
        assert np.allclose(one.embedding, other.embedding, atol=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 8
    coded = await talk.embed("a cat", encoding_format="base64")
    vector = np.frombuffer(base64.b64decode(coded.data[0].embedding), "<f4")
    assert vector.size == 384 and abs(float(np.linalg.norm(vector)) - 1) < 1e-5
    assert len((await talk.embed("a", dimensions=384)).data[0].embedding) == 384


async def responses(talk: Talk) -> None:
    answer = await talk.respond(CAPITAL[0]["content"])
    assert "Paris" in answer.output_text and answer.status == "completed"
    as_items = await talk.respond(CAPITAL)
    assert as_items.output_text == answer.output_text and as_items.usage == answer.usage
    cut = await talk.respond(COLOURS, instructions="Be brief.", max_output_tokens=2)
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    events = [event async for event in each(await talk.respond(CAPITAL, stream=True))]
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text == events[-1].response.output_text


async def errors(talk: Talk) -> None:
    refused = openai.UnprocessableEntityError
    wrong: dict[str, dict[str, Any]] = {
        "temperature": {"temperature": 3},
        "logit_bias": {"logit_bias": {"5": 500}},
        "messages": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "tools": {"tools": [TOOL]},
        "tool_choice": {"tool_choice": "required"},
        "n": {"n": 2, "temperature": 0},
        "model": {"model": "embedder"},
        "stop": {"stop": ["a"] * 5},
    }
    for param, more in wrong.items():
        failed = await talk.fails(refused, partial(talk.chat, **more))
        assert failed.param == param
        streamed = await talk.fails(refused, partial(talk.chat, stream=True, **more))
        assert streamed.body == failed.body
    long = [{"role": "user", "content": "word " * 3000}]
    failed = await talk.fails(openai.BadRequestError, lambda: talk.chat(long))
    assert failed.code == "context_length_exceeded"
    await talk.fails(refused, lambda: talk.embed([1, 2, 3]))
    await talk.fails(refused, lambda: talk.embed("a", dimensions=7))
    await talk.fails(refused, lambda: talk.respond("a", previous_response_id="resp_1"))
    failed = await talk.fails(openai.NotFoundError, lambda: talk.chat(model="nobody"))
    assert failed.code == "model_not_found"
    late = openai.InternalServerError  # 504
    hurry = {"X-Request-Timeout-Ms": "1"}
    await talk.fails(late, lambda: talk.chat(COLOURS, max_tokens=500, extra_headers=hurry))


PARTS = (
    models,
    chats,
    sampling,
    streams,
    completions,
    vectors,
    responses,
    errors,
    *STEERED_PARTS,
)


async def whole_scenario(client: Any) -> int:
    """How many calls it took."""
    talk = Talk(client)
    for part in PARTS:
        await part(talk)
    return talk.calls
