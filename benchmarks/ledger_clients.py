"""The clients of the hour that benchmarks/ledger_hour.py replays: they ask, and remember what they
saw until the judge wants to know it."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx

from benchmarks.ledger_judge import (
    NOTHING,
    Book,
    Kills,
    Polled,
    Tokens,
    span_of_answer,
    span_of_batch,
    span_of_job,
)
from benchmarks.ledger_traffic import Call, Json, Manner, most_of, usage_of

POLL_S, PATIENCE_S, ENDS_S = 0.2, 120.0, 300.0
AGAIN_AT_ONCE = 16
LINE_URL = "/v1/embeddings"


@dataclass(frozen=True, slots=True)
class Server:
    """One of those that follow each other."""

    number: int
    url: str


@dataclass(frozen=True, slots=True)
class Answered:
    """at: Unix seconds."""

    key: str
    server: int
    at: float
    used: list[tuple[str, Tokens]]


@dataclass(slots=True)
class Seen:
    """What the judge is told. unseen: calls that were asked, and whose answer never came whole."""

    answered: list[Answered] = field(default_factory=list)
    unseen: list[Call] = field(default_factory=list)
    polls: dict[str, list[Polled]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)


class Clients:
    """All of them. secrets: by the keys' names. now: the server that runs, if one does."""

    def __init__(self, secrets: Mapping[str, str], now: Callable[[], Server | None]) -> None:
        self._secrets = secrets
        self._now = now
        self._http = httpx.AsyncClient(timeout=PATIENCE_S, limits=httpx.Limits())
        self._polling: set[asyncio.Task[None]] = set()
        self.seen = Seen()

    async def close(self) -> None:
        for task in self._polling:
            task.cancel()
        await asyncio.gather(*self._polling, return_exceptions=True)
        await self._http.aclose()

    async def make(self, call: Call) -> None:
        """Ask once, as somebody would who does not ask again."""
        server = self._now()
        if server is None:
            self.seen.outcomes["no server"] += 1
            return
        try:
            outcome = await self._ask(call, server)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            outcome = "not connected"
        except (httpx.HTTPError, TimeoutError, Cut) as lost:
            self.seen.unseen.append(call)
            outcome = f"{call.manner}: {type(lost).__name__}"
        self.seen.outcomes[outcome] += 1

    async def _ask(self, call: Call, server: Server) -> str:
        match call.manner:
            case Manner.STREAM:
                return await self._read_stream(call, server)
            case Manner.JOB:
                frame = {"endpoint": call.path, "body": call.body}
                answer = await self._post(call.key, server, "/jobs", frame)
                return f"job: {answer.status_code}"
            case Manner.BATCH:
                return await self._begin_batch(call, server)
            case Manner.LEAVE:
                async with asyncio.timeout(call.patience_s):
                    return await self._read_whole(call, server)
            case _:
                return await self._read_whole(call, server)

    async def _read_whole(self, call: Call, server: Server) -> str:
        answer = await self._post(call.key, server, call.path, call.body)
        if answer.status_code == 200:
            if call.body.get("stream"):
                raise Cut  # it was read to its end, and told no usage
            self._note(call, server, answer.json())
        return f"{call.manner}: {answer.status_code}"

    async def _read_stream(self, call: Call, server: Server) -> str:
        body = {**call.body, "stream": True, "stream_options": {"include_usage": True}}
        last: Json = {}
        async with self._http.stream(
            "POST", f"{server.url}{call.path}", json=body, headers=self._headers(call.key)
        ) as answer:
            if answer.status_code != 200:
                return f"stream: {answer.status_code}"
            async for data in _events(answer):
                if data == "[DONE]":
                    self._note(call, server, last)
                    return "stream: 200"
                last = json.loads(data)
        raise Cut

    async def _begin_batch(self, call: Call, server: Server) -> str:
        lines = [
            {
                "custom_id": str(number),
                "method": "POST",
                "url": LINE_URL,
                "body": {"model": call.body["model"], "input": text},
            }
            for number, text in enumerate(call.body["input"])
        ]
        file = {"file": ("in.jsonl", "\n".join(map(json.dumps, lines)))}
        uploaded = await self._http.post(
            f"{server.url}/v1/files",
            data={"purpose": "batch"},
            files=file,
            headers=self._headers(call.key),
        )
        if uploaded.status_code != 200:
            return f"file: {uploaded.status_code}"
        wanted = {"input_file_id": uploaded.json()["id"], "endpoint": LINE_URL}
        wanted["completion_window"] = "24h"
        made = await self._post(call.key, server, "/v1/batches", wanted)
        if made.status_code == 200:
            polling = asyncio.create_task(self._poll(call.key, made.json()["id"]))
            self._polling.add(polling)
        return f"batch: {made.status_code}"

    async def _poll(self, key: str, batch_id: str) -> None:
        polls = self.seen.polls[batch_id] = []
        while True:
            if (server := self._now()) is not None:
                try:
                    answer = await self._get(key, server, f"/v1/batches/{batch_id}")
                except httpx.HTTPError:
                    continue
                if answer.status_code == 200:
                    counts = answer.json()["request_counts"]
                    polls.append(Polled(time.time(), counts["completed"] + counts["failed"]))
                    if answer.json()["status"] == "completed":
                        return
            await asyncio.sleep(POLL_S)

    def _note(self, call: Call, server: Server, answer: Json) -> None:
        used = usage_of(answer)
        self.seen.answered.append(Answered(call.key, server.number, time.time(), used))

    async def _post(self, key: str, server: Server, path: str, body: Any) -> httpx.Response:
        headers = self._headers(key)
        return await self._http.post(f"{server.url}{path}", json=body, headers=headers)

    async def _get(self, key: str, server: Server, path: str) -> httpx.Response:
        return await self._http.get(f"{server.url}{path}", headers=self._headers(key))

    def _headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secrets[key]}"}

    # --- after the hour, while nobody kills

    async def settle(self, book: Book, kills: Kills, server: Server) -> None:
        """Wait for what was begun, and write all but the unseen into the book."""
        for each in self.seen.answered:
            for model, used in each.used:
                is_sure = kills.is_sure(each.server, each.at)
                book.add((each.key, model), *span_of_answer(used, is_sure=is_sure))
        for key in self._secrets:
            await self._settle_batches(key, book, kills, server)
            await self._settle_jobs(key, book, kills, server)

    async def judge_unseen(self, key: str, book: Book, server: Server) -> None:
        """Ask again, by a key of the judge's own, what nobody saw an answer to."""
        room = asyncio.Semaphore(AGAIN_AT_ONCE)

        async def ask(call: Call) -> None:
            body = {name: value for name, value in call.body.items() if name != "stream"}
            async with room:
                answer = await self._post(key, server, call.path, body)
            if answer.status_code == 200:
                for model, most in most_of(answer.json()):
                    book.add((call.key, model), NOTHING, most)

        listed = (Manner.JOB, Manner.BATCH)  # they are found in the lists
        await asyncio.gather(*(ask(each) for each in self.seen.unseen if each.manner not in listed))

    async def _settle_jobs(self, key: str, book: Book, kills: Kills, server: Server) -> None:
        async for job_id in self._job_ids(key, server):
            job = await self._ended(key, server, f"/jobs/{job_id}?wait=30", "state", _JOB_ENDS)
            self.seen.outcomes[f"job {job['state']}"] += 1
            if job["result"] is None:
                continue
            at = datetime.fromisoformat(job["finished_at"]).timestamp()
            inputs, attempts = job["progress"]["total"], job["attempts"]
            for model, used in usage_of(job["result"]):
                book.add((key, model), *span_of_job(used, inputs, attempts, at, kills))

    async def _job_ids(self, key: str, server: Server) -> AsyncIterator[str]:
        path: str | None = "/jobs?limit=100"
        while path is not None:
            page = (await self._get(key, server, path)).json()
            for job in page["jobs"]:
                yield job["id"]
            cursor = page["next_cursor"]
            path = None if cursor is None else f"/jobs?limit=100&cursor={cursor}"

    async def _settle_batches(self, key: str, book: Book, kills: Kills, server: Server) -> None:
        for batch in (await self._get(key, server, "/v1/batches?limit=100")).json()["data"]:
            path = f"/v1/batches/{batch['id']}"
            ended = await self._ended(key, server, path, "status", ("completed",))
            self.seen.outcomes["batch completed"] += 1
            lines = [_used(line) for line in await self._lines(key, server, ended)]
            polls = self.seen.polls.get(batch["id"], [])
            begun, done = ended["created_at"], ended["completed_at"] + 1
            span = span_of_batch(lines, polls, begun, done, kills)
            book.add((key, "embedder"), *span)

    async def _lines(self, key: str, server: Server, batch: Json) -> list[Json]:
        told = await self._get(key, server, f"/v1/files/{batch['output_file_id']}/content")
        return [json.loads(line) for line in told.text.splitlines()]

    async def _ended(
        self, key: str, server: Server, path: str, field_name: str, ends: tuple[str, ...]
    ) -> Json:
        async with asyncio.timeout(ENDS_S):
            while True:
                shown: Json = (await self._get(key, server, path)).json()
                if shown[field_name] in ends:
                    return shown
                await asyncio.sleep(POLL_S)


class Cut(Exception):
    """An answer that did not come whole."""


_JOB_ENDS = ("succeeded", "failed", "cancelled", "expired")


def _used(line: Json) -> Tokens:
    ((_, tokens),) = usage_of(line["response"]["body"])
    return tokens


async def _events(answer: httpx.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield line.removeprefix("data: ")
