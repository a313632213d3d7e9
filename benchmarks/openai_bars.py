"""Promises of OpenAI's interface, kept or missed, on a whole server.

    python -m benchmarks.openai_bars [--samples 200] [--readers 200]

Answers sampled at temperature 1 fit their schemas, by another library's judgement; hostile schemas
are refused at once while somebody else is served; a seed gives the same text alone and beside 32
others; stops end a text wherever token borders fall; `usage` counts as the tokenizer does; clients
that read nothing hold no more than their buffers. Exits 1 when one is missed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import jinja2
import openvino_genai as genai
import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.core.config import load_settings
from benchmarks.harness import Bars, running_server, warn_when_busy
from tests.e2e.serving import ServerProcess
from tests.e2e.slow_readers import come_and_stay
from tests.e2e.tools import TEMPLATE, catalog_with_tools

AT_ONCE = 16
REFUSED_S = 1.0
BESIDE = 32
BESIDE_TOKENS = 200
BUFFERS_BYTES = 2**17  # of one reader: 64 KiB of pieces, and as much of its connection
STORY = "The history of bridges is"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Kind(StrEnum):
    STONE = "stone"
    WOOD = "wood"


class Bridge(_Strict):
    name: Annotated[str, Field(max_length=12)]
    arches: Annotated[int, Field(ge=1, le=99)]
    kind: Kind
    parts: Annotated[list[bool], Field(max_length=3)]


class Leaf(_Strict):
    tag: Literal["leaf"]
    value: bool | None


class Tree(_Strict):
    left: Leaf
    right: "Leaf | Pair"


class Pair(_Strict):
    one: Leaf
    other: Leaf


class Code(_Strict):
    code: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]{3}$")]
    score: Annotated[int, Field(ge=0, le=100)]  # a fraction may have digits without end


class Point(_Strict):
    at: tuple[Annotated[int, Field(ge=-9, le=9)], Annotated[int, Field(ge=-9, le=9)]]


MODELS: tuple[type[BaseModel], ...] = (Bridge, Tree, Code, Point)


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


HOSTILE: dict[str, dict[str, Any]] = {
    "deep": _nested(200),
    "huge": {"enum": ["x" * 70_000]},
    "many choices": {
        "allOf": [
            {"anyOf": [{"properties": {f"p{i}{j}": {"type": "string"}}} for i in range(12)]}
            for j in range(6)
        ]
    },
    "a reference to itself": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "the root is itself": {"$ref": "#"},
    "a remote reference": {"$ref": "http://192.0.2.1/schema.json"},
    "a look-ahead": {"type": "string", "pattern": "(?=a)b"},
    "nothing fits": {"type": "string", "minLength": 5, "maxLength": 2},
}

COSTLY: dict[str, dict[str, Any]] = {  # refused, or no burden
    "nested repeats": {"type": "string", "pattern": "^((a{1,999}){1,999}){1,999}$"},
    "many states": {"type": "string", "pattern": "^(a|b)*a(a|b){200}$"},
    "a long string": {"type": "string", "maxLength": 10**9},
    "a long list": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
}


class Client:
    """The interface, asked by `httpx`."""

    def __init__(self, server: ServerProcess) -> None:
        limits = httpx.Limits(max_connections=BESIDE + 8)
        self._http = httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self._http.post(f"/v1/{path}", json={"model": "generator", **body})

    async def complete(self, prompt: str, **more: Any) -> dict[str, Any]:
        answer = await self.post("completions", prompt=prompt, **more)
        return answer.raise_for_status().json()  # type: ignore[no-any-return]

    async def fit(self, schema: dict[str, Any], content: str, **more: Any) -> httpx.Response:
        form = {"type": "json_schema", "json_schema": {"name": "asked", "schema": schema}}
        messages = [{"role": "user", "content": content}]
        return await self.post("chat/completions", messages=messages, response_format=form, **more)

    async def close(self) -> None:
        await self._http.aclose()


async def answers_fit_their_schemas(client: Client, samples: int, bars: Bars) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def fits(number: int) -> bool:
        model = MODELS[number % len(MODELS)]
        async with places:
            answer = await client.fit(
                model.model_json_schema(),
                f"Tell me about bridge {number}, as JSON.",
                temperature=1,
                seed=number,
                max_tokens=400,
            )
        text = answer.raise_for_status().json()["choices"][0]["message"]["content"]
        try:
            model.model_validate_json(text)
        except ValidationError as problem:
            print(f"{model.__name__}: {text[:100]!r}: {problem.errors()[0]['msg']}")
            return False
        return True

    fitting = sum(await asyncio.gather(*(fits(number) for number in range(samples))))
    bars.at_least(f"of {samples} sampled answers fit their schema", fitting, samples)


async def hostile_schemas_are_refused_at_once(client: Client, bars: Bars) -> None:
    await client.fit({"type": "object"}, "a", max_tokens=1)  # the vocabulary is read with the first
    whole = {"max_tokens": BESIDE_TOKENS, "min_tokens": BESIDE_TOKENS, "temperature": 0}
    beside = asyncio.create_task(client.complete(STORY, **whole))
    await asyncio.sleep(0.5)
    refused, longest = 0, 0.0
    for name, schema in {**HOSTILE, **COSTLY}.items():
        started = time.perf_counter()
        status = (await client.fit(schema, "a", max_tokens=5)).status_code
        longest = max(longest, time.perf_counter() - started)
        refused += name in HOSTILE and status == 422
    bars.at_least(f"of {len(HOSTILE)} hostile schemas are refused", refused, len(HOSTILE))
    bars.at_most("slowest answer to those and to costly ones, s", longest, REFUSED_S)
    written = (await beside)["usage"]["completion_tokens"]
    bars.at_least("tokens of a text beside them", written, BESIDE_TOKENS)


async def a_seed_gives_the_same_text(client: Client, bars: Bars) -> None:
    how = {"temperature": 1, "max_tokens": 24}
    alone = [await client.complete(STORY, seed=seed, **how) for seed in range(4)]
    others = [
        client.complete(f"In {1500 + n} a bridge of {n} arches", seed=n, max_tokens=30)
        for n in range(BESIDE)
    ]
    among = await asyncio.gather(
        *(client.complete(STORY, seed=seed, **how) for seed in range(4)), *others
    )
    same = sum(a["choices"] == b["choices"] for a, b in zip(alone, among[:4], strict=True))
    bars.at_least(f"of 4 seeds give the same text among {BESIDE} others", same, 4)


async def stops_end_texts_anywhere(client: Client, bars: Bars) -> None:
    how = {"temperature": 0, "max_tokens": 48}
    text = (await client.complete(STORY, **how))["choices"][0]["text"]
    stops = [text[at : at + size] for at in range(len(text) - 9) for size in (3, 9)][::4]
    places = asyncio.Semaphore(AT_ONCE)

    async def cut(stop: str) -> bool:
        async with places:
            made = await client.complete(STORY, stop=stop, **how)
        (choice,) = made["choices"]
        return bool(choice["text"] == text.split(stop)[0] and choice["finish_reason"] == "stop")

    right = sum(await asyncio.gather(*(cut(stop) for stop in stops)))
    bars.at_least(f"of {len(stops)} stop strings end the text where they begin", right, len(stops))


async def usage_counts_as_the_tokenizer(client: Client, bars: Bars) -> None:
    folder = next(load_settings().model_store.glob("prepared/*/openvino_tokenizer.xml")).parent
    tokenizer = genai.Tokenizer(str(folder))

    def count(text: str) -> int:
        return int(tokenizer.encode(text, add_special_tokens=False).input_ids.shape[1])

    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"))
    wrong = 0
    for text in (STORY, "Grüße aus 日本 😀", "a", " \n x" * 40):
        made = await client.complete(text, max_tokens=12, logprobs=0)
        (choice,) = made["choices"]
        ended = choice["finish_reason"] == "stop"  # by a token that is no part of the text
        written = len(choice["logprobs"]["tokens"]) + ended
        wrong += made["usage"]["prompt_tokens"] != count(text)
        wrong += made["usage"]["completion_tokens"] != written
        messages = [{"role": "user", "content": text}]
        body = {"model": "generator:tools", "messages": messages, "max_tokens": 1}
        answer = (await client.post("chat/completions", **body)).raise_for_status().json()
        prompt = template.render(messages=messages, add_generation_prompt=True)
        wrong += answer["usage"]["prompt_tokens"] != count(prompt)
    bars.at_most("counts of usage that differ from the tokenizer's", wrong, 0)


def readers_hold_their_buffers(server: ServerProcess, readers: int, bars: Bars) -> None:
    """Beside what as many connections hold that read: those of a first round."""
    body = {
        "model": "generator",
        "messages": [{"role": "user", "content": STORY}],
        "max_tokens": 400,
        "logprobs": True,
        "top_logprobs": 20,
        "stream": True,
    }
    process = psutil.Process(server.process.pid)
    peaks = [0]
    path = "/v1/chat/completions"
    asyncio.run(come_and_stay(server.port, path, body, readers // 10, lambda: None))
    before = process.memory_info().rss
    asyncio.run(
        come_and_stay(
            server.port, path, body, readers, lambda: peaks.append(process.memory_info().rss)
        )
    )
    each = (max(peaks) - before) / readers
    bars.at_most(f"bytes held by each of {readers} clients that do not read", each, BUFFERS_BYTES)


async def measure(server: ServerProcess, samples: int, bars: Bars) -> None:
    client = Client(server)
    try:
        await answers_fit_their_schemas(client, samples, bars)
        await hostile_schemas_are_refused_at_once(client, bars)
        await a_seed_gives_the_same_text(client, bars)
        await stops_end_texts_anywhere(client, bars)
        await usage_counts_as_the_tokenizer(client, bars)
    finally:
        await client.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--readers", type=int, default=200)
    options = parser.parse_args(arguments)
    warn_when_busy()
    bars = Bars()
    with tempfile.TemporaryDirectory() as folder:
        catalog = catalog_with_tools(Path(folder))
        with running_server(MODEL_CATALOG=catalog) as server:
            asyncio.run(measure(server, options.samples, bars))
            readers_hold_their_buffers(server, options.readers, bars)
    return bars.exit_status()


if __name__ == "__main__":
    sys.exit(main())
