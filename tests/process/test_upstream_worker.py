"""A real worker in front of a server that misbehaves: clean errors, nothing told, nobody left."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.core.errors import CannotLoad
from app.core.parameters import resolve
from app.core.types import Failed, Outcome
from app.tasks.remote_parameters import REMOTE_GENERATE
from app.workers.handle import WORKER_COMMAND
from app.workers.messages import HostedVersion, Load
from app.workers.status import ServingState
from tests.fakes import a_load
from tests.process.other_server import KEY, SECRET, TEXT, OtherServer, other_server
from tests.process.workers import (
    ANSWER_S,
    LOAD_S,
    VERSION,
    Bench,
    Lone,
    SupervisorBench,
    error_of,
    eventually,
)

REFUSED = {  # prompt -> code of the error, and what its message says
    "status 400 temperature": ("invalid_request", "parameters.temperature is refused"),
    "status 422 max_tokens": ("invalid_request", "parameters.max_new_tokens is refused"),
    "status 400 mystery": ("invalid_request", "refuses the request"),
    "status 401 key": ("model_unavailable", "refuses the key"),
    "status 404 model": ("model_unavailable", "does not know the model"),
    "status 413 size": ("input_too_long", "longer than the model takes"),
    "status 500 fault": ("model_unavailable", "failed"),
    "status 502 gateway": ("model_unavailable", "failed"),
    "busy-for-long": ("overloaded", "takes no more requests"),
    "redirect": ("model_unavailable", "where we do not go"),
    "garbage": ("model_unavailable", "no answer"),
    "shape": ("model_unavailable", "no answer"),
    "nesting": ("model_unavailable", "no answer"),
    "zipped": ("model_unavailable", "compressed"),
    "endless": ("model_unavailable", "more than an answer"),
}
BROKEN_STREAMS = {
    "cut": ("model_unavailable", "broke off"),
    "tells": ("model_unavailable", "broke off"),
    "nonsense": ("model_unavailable", "no answer"),
    "line": ("model_unavailable", "without an end"),
}


@pytest.fixture
async def other(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OtherServer]:
    monkeypatch.setenv("FAR_KEY", KEY)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with other_server() as other:
        yield other


def load_of(other: OtherServer, **options: Any) -> Load:
    usual = {"base_url": f"http://127.0.0.1:{other.port}/v1", "model": "m", "max_retries": 1}
    return a_load(
        artefact="there",
        runtime="upstream",
        kind="remote",
        options={"api_key_env": "FAR_KEY", "max_answer_bytes": 2**22, **usual, **options},
        versions=[HostedVersion(VERSION, "generate", {}, {})],
        log_level="info",
    )


async def started(bench: Bench, other: OtherServer, **options: Any) -> Lone:
    worker = bench.handle(load_of(other, **options), WORKER_COMMAND)
    await worker.start(LOAD_S)
    return worker


async def ask(worker: Lone, prompt: str, timeout_ms: float = 30_000) -> Outcome:
    parameters = resolve(REMOTE_GENERATE, {})
    return await asyncio.wait_for(worker.ask(prompt, timeout_ms, **parameters), ANSWER_S)


async def test_every_failure_is_a_clean_error_that_tells_nothing(bench, other, capfd):
    worker = await started(bench, other)
    for prompt, (code, words) in REFUSED.items():
        error = error_of(await ask(worker, prompt))
        assert (error.code, words in str(error)) == (code, True), (prompt, str(error))
        assert not any(told in str(error) for told in (SECRET, KEY, str(other.port))), prompt
    late = error_of(await ask(worker, "slow", timeout_ms=200))
    assert late.code == "deadline_exceeded"
    answer = await ask(worker, "well")
    assert not isinstance(answer, Failed) and answer.answer.value == TEXT

    assert {request.path for request in other.requests} == {"/v1/completions"}
    await worker.stop()
    log = capfd.readouterr().err
    assert "upstream_refused" in log and SECRET in log and KEY not in log


async def test_only_what_a_call_holds_goes_out(bench, other):
    worker = await started(bench, other)
    for _ in range(2):  # a cookie was set by the first answer
        await ask(worker, "well")
    (request,) = other.requests[1:]
    assert request.headers.pop("content-length") and request.headers == {
        "host": f"127.0.0.1:{other.port}",
        "connection": "keep-alive",
        "user-agent": "ai-inference-backend",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
    }
    assert request.body == {"model": "m", "prompt": "well"}


async def test_what_was_not_begun_is_asked_again_and_connections_are_used_again(bench, other):
    worker = await started(bench, other)
    for prompt in ("busy", "hangup"):
        answer = await ask(worker, prompt)
        assert not isinstance(answer, Failed) and other.times(prompt) == 2
    assert error_of(await ask(worker, "status 500 once")) and other.times("status 500 once") == 1
    assert error_of(await ask(worker, "status 503 more")) and other.times("status 503 more") == 2
    before = other.connections
    for _ in range(5):
        await ask(worker, "well")
        await stream_of(worker, "well")
    assert other.connections <= before + 1


async def stream_of(worker: Lone, prompt: str) -> tuple[str, Outcome]:
    pieces: list[tuple[str, int]] = []
    outcome = await asyncio.wait_for(
        worker.stream(prompt, pieces, resolve(REMOTE_GENERATE, {})), ANSWER_S
    )
    return "".join(text for text, _ in pieces), outcome


async def test_streams_end_whole_or_with_an_error(bench, other):
    worker = await started(bench, other)
    text, outcome = await stream_of(worker, "well")
    assert not isinstance(outcome, Failed) and text == outcome.answer.value == TEXT
    assert outcome.answer.usage.output_tokens == 3
    for prompt, (code, words) in BROKEN_STREAMS.items():
        text, outcome = await stream_of(worker, prompt)
        error = error_of(outcome)
        assert (error.code, words in str(error)) == (code, True), (prompt, str(error))
        assert SECRET not in str(error) and text in ("", "Par")
        assert other.times(prompt) == 1


async def test_who_leaves_has_his_connection_closed(bench, other):
    worker = await started(bench, other)
    pieces: list[tuple[str, int]] = []
    streaming = worker.stream("drips", pieces, resolve(REMOTE_GENERATE, {}))
    waiting = worker.ask("slow", **resolve(REMOTE_GENERATE, {}))
    await other.slow.wait()
    await eventually(lambda: len(pieces) > 2, "pieces", ANSWER_S)
    held = other.open
    streaming.cancel()
    waiting.cancel()
    await eventually(lambda: other.open <= held - 2 or not other.open, "the closing", ANSWER_S)
    assert worker.owed == 0


async def test_no_more_are_out_than_may_be(bench, other):
    worker = await started(bench, other, max_concurrent=2)
    asked = [worker.ask("slow", **resolve(REMOTE_GENERATE, {})) for _ in range(5)]
    await eventually(lambda: other.times("slow") == 2, "two requests", ANSWER_S)
    asked[0].cancel()
    await eventually(lambda: other.times("slow") == 3, "the third", ANSWER_S)
    for outcome in asked:
        outcome.cancel()
    await eventually(lambda: worker.owed == 0, "the withdrawal", ANSWER_S)


async def test_a_version_serves_while_the_other_server_does(supervised: SupervisorBench, other):
    other.health = 401
    watched = supervised.run(load_of(other, health_interval_s=0.1), command=WORKER_COMMAND)
    await watched.until(ServingState.UNAVAILABLE)
    assert "refuses the key" in watched.supervisor.status.reason
    assert ServingState.READY not in watched.states
    other.health = 200
    await watched.until(ServingState.READY)
    other.health = 500
    await watched.until(ServingState.UNAVAILABLE, 2)
    assert "answers 500" in watched.supervisor.status.reason
    other.health = 429
    await watched.until(ServingState.READY, 2)
    refused = watched.supervisor.submit(VERSION, "status 403 x", resolve(REMOTE_GENERATE, {}), 1e4)
    assert error_of(await refused).code == "model_unavailable"
    await watched.until(ServingState.UNAVAILABLE, 3)
    await watched.until(ServingState.READY, 3)


async def test_a_key_that_is_not_there_fails_the_version(bench, other, monkeypatch):
    monkeypatch.delenv("FAR_KEY")
    worker = bench.handle(load_of(other), WORKER_COMMAND)
    with pytest.raises(CannotLoad, match="api_key_env names FAR_KEY"):
        await worker.start(LOAD_S)
