"""OpenAI's client, synchronous or not, in one voice: what it returns is awaited where it can be."""

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
COLOURS = [{"role": "user", "content": "Name three colours."}]
GREEDY: dict[str, Any] = {"model": "generator", "temperature": 0}


async def got(made: Any) -> Any:
    return await made if inspect.isawaitable(made) else made


async def each(stream: Any) -> AsyncIterator[Any]:
    stream = await got(stream)
    if hasattr(stream, "__aiter__"):
        async for event in stream:
            yield event
    else:
        for event in stream:
            yield event


class Talk:
    """One client, and how many calls it has made."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls = 0

    async def chat(self, messages: Any = None, **more: Any) -> Any:
        self.calls += 1
        asked = {**GREEDY, "messages": messages or CAPITAL, "max_tokens": 20, **more}
        return await got(self.client.chat.completions.create(**asked))

    async def chunks(self, **more: Any) -> list[Any]:
        return [chunk async for chunk in each(await self.chat(stream=True, **more))]

    async def complete(self, prompt: Any, **more: Any) -> Any:
        self.calls += 1
        asked = {**GREEDY, "prompt": prompt, "max_tokens": 8, **more}
        return await got(self.client.completions.create(**asked))

    async def embed(self, given: Any, **more: Any) -> Any:
        self.calls += 1
        asked = {"model": "embedder", "input": given, **more}
        return await got(self.client.embeddings.create(**asked))

    async def respond(self, given: Any, **more: Any) -> Any:
        self.calls += 1
        asked = {**GREEDY, "input": given, "max_output_tokens": 20, **more}
        return await got(self.client.responses.create(**asked))

    async def fails(self, kind: type[openai.APIStatusError], call: Callable[[], Any]) -> Any:
        with pytest.raises(kind) as failed:
            await got(call())
        body: Any = failed.value.body
        assert set(body) == {"message", "type", "param", "code"}
        return failed.value
