"""Batches are run to their end, each line once, whatever happens to who runs them."""

import asyncio
import errno
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from app.batches import answering
from app.batches.contents import Contents
from app.batches.results import Numbered, Reply, Results
from app.batches.runner import OF_ONE_CALLER, BatchRunner
from app.batches.running import BatchLimits, Means
from app.batches.sql import SqlBatchStore
from app.batches.status import Batch, BatchStatus, Counts, Problem, Purpose, StoredFile
from app.core.batch_metrics import BatchMetrics
from app.core.errors import (
    CallerFilesFull,
    DeadlineExceeded,
    ModelUnavailable,
    StorageUnavailable,
)
from app.services.batch_service import WINDOW_S, BatchService

GUARD_S, MOST_INPUTS, MOST_BYTES = 20.0, 4, 100_000
URL = "/v1/embeddings"


class AnswersWhenTold:
    """Work whose inputs wait for the test, but for those that it has a word for.

    A body is its number; `outcomes` says by that what comes at once: a reply, or an error.
    """

    def __init__(self) -> None:
        self.can_run = True
        self.begun: list[int] = []
        self.at_once = self.most_at_once = 0
        self.outcomes: dict[int, Reply | Exception] = {}
        self.gate = asyncio.Event()
        self.inputs = 1

    def model_problem(self, endpoint: str, model: str) -> Problem | None:
        return Problem("model_not_found", "no such model") if model == "missing" else None

    def read(self, endpoint: str, body: bytes, batch: Batch) -> "_Asked | Reply":
        assert (endpoint, batch.caller) == (URL, "me")
        return _Asked(self, json.loads(body)["n"])


class _Asked:
    def __init__(self, work: AnswersWhenTold, number: int) -> None:
        self._work = work
        self._number = number
        self.inputs = work.inputs

    async def run(self, position: int, left_s: float) -> Reply:
        work = self._work
        work.begun.append(self._number)
        work.at_once += 1
        work.most_at_once = max(work.most_at_once, work.at_once)
        try:
            outcome = work.outcomes.get(self._number)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is None:
                await work.gate.wait()
                await asyncio.sleep(0)
            return outcome or answered(self._number)
        finally:
            work.at_once -= 1

    def reply(self, results: Sequence[Reply], request_id: str) -> Reply:
        return results[-1]


def answered(number: int) -> Reply:
    return Reply(200, b'{"n":%d}' % number)


def lines(numbers: Sequence[int], **changes: Any) -> bytes:
    made = (
        {
            "custom_id": f"c{n}",
            "method": "POST",
            "url": URL,
            "body": {"model": "m", "n": n},
            **changes,
        }
        for n in numbers
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in made)


class Server:
    """A runner, its service, and what belongs to them."""

    def __init__(self, database: Any, folder: Path) -> None:
        self.work = AnswersWhenTold()
        self.store = SqlBatchStore(database)
        self.contents = Contents(folder / "files")
        self.results = folder / "batches"
        self.results.mkdir(exist_ok=True)
        self.later_s = 0.0
        limits = BatchLimits(MOST_INPUTS, 1000, 10_000, MOST_BYTES)
        room = asyncio.Semaphore(MOST_INPUTS)
        self.registry = CollectorRegistry()
        metrics = BatchMetrics(self.registry)
        means = Means(
            self.store, self.contents, self.work, self.results, limits, room, metrics, self._now
        )
        self.runner = BatchRunner(means)
        self.service = BatchService(self.store, self.contents, self.runner, 1e6, MOST_BYTES)

    def _now(self) -> float:
        return time.time() + self.later_s

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"inference_{name}", labels)

    async def batch(self, data: bytes) -> Batch:
        return await self.batch_of((await self.upload(data)).id)

    async def batch_of(self, file_id: str) -> Batch:
        return await self.service.create("me", URL, file_id, None, None)

    async def upload(self, data: bytes) -> StoredFile:
        async with self.service.receiving("me") as upload:
            await upload.write(data)
            return await upload.keep("in.jsonl", None)

    async def ended(self, batch: Batch) -> Batch:
        return await self.until(batch, lambda now: not now.status.is_open)

    async def until(self, batch: Batch, is_so: Callable[[Batch], bool]) -> Batch:
        async with asyncio.timeout(GUARD_S):
            while not is_so(now := await self.service.batch("me", batch.id)):
                await asyncio.sleep(0.01)
        return now

    async def is_tidy(self) -> None:
        """Nothing is left of batches that have ended."""
        async with asyncio.timeout(GUARD_S):
            while list(self.results.iterdir()):
                await asyncio.sleep(0.01)

    async def told(self, file_id: str | None) -> dict[str, Any]:
        """Lines of a file by custom_id, of which each is there once."""
        if file_id is None:
            return {}
        file = await self.service.file("me", file_id)
        content = b"".join([piece async for piece in self.service.content(file)])
        assert (len(content), file.purpose) == (file.size, Purpose.OUTPUT)
        found = [json.loads(line) for line in content.splitlines()]
        by_id = {line["custom_id"]: line for line in found}
        assert len(by_id) == len(found)
        return by_id


@pytest_asyncio.fixture
async def start(database: Any, tmp_path: Path) -> AsyncIterator[Callable[[], Server]]:
    servers: list[Server] = []

    def started() -> Server:
        servers.append(Server(database, tmp_path))
        servers[-1].service.start()
        return servers[-1]

    yield started
    for server in servers:
        await server.service.stop(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(answering, "KEEP_S", 0.01)
    monkeypatch.setattr(answering, "RETRY_S", 0.01)
    monkeypatch.setattr(answering, "LEAST_DELAY_S", 0.01)
    monkeypatch.setattr("app.batches.runner.POLL_S", 0.02)
    monkeypatch.setattr("app.batches.runner.RETRY_S", 0.01)


async def test_each_line_has_one_answer_in_one_of_two_files(start):
    server = start()
    server.work.gate.set()
    server.work.outcomes[3] = Reply(422, b'{"error":{}}')
    batch = await server.ended(await server.batch(lines(range(30))))
    assert (batch.status, batch.counts) == (BatchStatus.COMPLETED, Counts(30, 29, 1))
    output, errors = await server.told(batch.output_id), await server.told(batch.error_id)
    assert list(errors) == ["c3"] and errors["c3"]["response"]["status_code"] == 422
    assert {name: line["response"]["body"] for name, line in output.items()} == {
        f"c{n}": {"n": n} for n in range(30) if n != 3
    }
    assert server.work.most_at_once <= MOST_INPUTS
    await server.is_tidy()


async def test_metrics_tell_of_lines_batches_and_files(start, monkeypatch):
    monkeypatch.setattr("app.batches.runner.MEASURE_S", 0.01)
    server = start()
    server.work.outcomes |= {n: answered(n) for n in range(10)} | {3: Reply(422, b"{}")}
    data = lines(range(30))
    batch = await server.batch(data)
    server.later_s = 100.0
    await server.until(batch, lambda now: now.counts == Counts(30, 9, 1))

    def figures() -> dict[str, float | None]:
        metric = server.metric
        return {
            "answered": metric("batches_lines_total", outcome="answered"),
            "failed": metric("batches_lines_total", outcome="failed"),
            "in flight": metric("batches_lines_in_flight"),
            "running": metric("batches", status="in_progress"),
            "completed": metric("batches_ended_total", status="completed"),
            "inputs": metric("files", purpose="batch"),
            "input bytes": metric("files_bytes", purpose="batch"),
            "outputs": metric("files", purpose="batch_output"),
        }

    async def until(expected: dict[str, float | None]) -> None:
        async with asyncio.timeout(GUARD_S):
            while figures() != expected:
                await asyncio.sleep(0.01)

    running = {"answered": 9, "failed": 1, "in flight": MOST_INPUTS, "running": 1}
    files = {"inputs": 1, "input bytes": len(data), "outputs": 0}
    await until({**running, "completed": None, **files})
    assert 100 <= (server.metric("batches_oldest_seconds") or 0) < 100 + GUARD_S
    server.work.gate.set()
    await server.ended(batch)
    over = {"answered": 29, "failed": 1, "in flight": 0, "running": 0, "completed": 1}
    await until({**over, **files, "outputs": 2})
    assert server.metric("batches_oldest_seconds") == 0


async def test_metrics_count_what_never_ran_as_failed(start):
    server = start()
    await server.ended(await server.batch(b"{"))
    server.work.can_run = False
    batch = await server.batch(lines(range(3)))
    server.later_s = WINDOW_S + 1
    server.work.can_run = True
    await server.ended(batch)
    ended = [server.metric("batches_ended_total", status=each) for each in ("failed", "expired")]
    assert ended == [1, 1] and server.metric("batches_lines_total", outcome="failed") == 3


async def test_places_are_of_inputs_not_of_lines(start):
    server = start()
    server.work.inputs = 7
    server.work.gate.set()
    batch = await server.ended(await server.batch(lines(range(5))))
    assert batch.counts == Counts(5, 5, 0)
    assert server.work.most_at_once <= MOST_INPUTS
    assert sorted(server.work.begun) == [n for n in range(5) for _ in range(7)]


async def test_a_batch_with_a_wrong_line_runs_nothing(start):
    server = start()
    data = lines([0]) + b"{\n" + lines([1], body={"model": "missing"}) + lines([0])
    batch = await server.ended(await server.batch(data))
    assert [(each.code, each.line) for each in batch.problems] == [
        ("invalid_json_line", 2),
        ("model_not_found", 3),
        ("duplicate_custom_id", 4),
    ]
    assert (batch.status, batch.output_id, batch.error_id) == (BatchStatus.FAILED, None, None)
    assert server.work.begun == []
    await server.is_tidy()


async def test_a_batch_of_a_caller_without_room_runs_nothing_until_there_is_some(start):
    server = start()
    server.work.gate.set()
    first = await server.batch(lines([0]))
    full = await server.upload(b"x" * (MOST_BYTES - 2000))
    await server.ended(first)
    taken = await server.store.caller_bytes("me", time.time())
    await server.upload(b"x" * (MOST_BYTES - taken))
    refused = await server.ended(await server.batch_of(first.input_file_id))
    ((code, message),) = [(each.code, each.message) for each in refused.problems]
    assert refused.status is BatchStatus.FAILED and code == "caller_files_full"
    assert f"the {MOST_BYTES} that" in message and "MAX_CALLER_FILES_BYTES" in message
    assert server.work.begun == [0]
    await server.service.delete_file("me", full.id)
    again = await server.ended(await server.batch_of(first.input_file_id))
    assert again.status is BatchStatus.COMPLETED


async def test_of_files_that_come_in_together_as_many_are_kept_as_there_is_room_for(start):
    server = start()

    async def upload() -> bool:
        try:
            await server.upload(b"x" * (MOST_BYTES // 4))
        except CallerFilesFull:
            return False
        return True

    with pytest.raises(CallerFilesFull):
        async with server.service.receiving("me", MOST_BYTES + 1):
            pass
    assert sum(await asyncio.gather(*(upload() for _ in range(7)))) == 4
    assert len(list(server.contents.left_behind())) == 4, "what was refused is gone from the disk"


async def test_what_cannot_be_run_now_is_waited_for(start):
    server = start()
    server.work.outcomes[1] = ModelUnavailable("it is loading", retry_after_s=60.0)
    batch = await server.batch(lines(range(3)))
    server.work.gate.set()
    await server.until(batch, lambda now: now.counts.completed == 2)
    async with asyncio.timeout(GUARD_S):
        while server.work.begun.count(1) < 3:
            await asyncio.sleep(0.01)
    server.work.outcomes[1] = answered(1)
    assert (await server.ended(batch)).counts == Counts(3, 3, 0)


async def test_a_cancelled_batch_keeps_its_finished_part(start):
    server = start()
    server.work.outcomes |= {0: answered(0), 1: Reply(413, b"{}")}
    batch = await server.batch(lines(range(50)))
    await server.until(batch, lambda now: now.counts == Counts(50, 1, 1))
    assert (await server.service.cancel("me", batch.id)).status is BatchStatus.CANCELLING
    ended = await server.ended(batch)
    assert (ended.status, ended.counts) == (BatchStatus.CANCELLED, Counts(50, 1, 1))
    assert list(await server.told(ended.output_id)) == ["c0"]
    assert list(await server.told(ended.error_id)) == ["c1"]
    assert len(server.work.begun) <= 2 + MOST_INPUTS


async def test_another_server_cancels_it_too(start):
    server = start()
    server.work.outcomes |= {n: answered(n) for n in range(0, 50, 2)}
    batch = await server.batch(lines(range(50)))
    await server.until(batch, lambda now: now.counts.completed > 0)
    await server.store.cancel("me", batch.id, 1.0)
    server.work.gate.set()  # the next answer brings the news
    assert (await server.ended(batch)).status is BatchStatus.CANCELLED


async def test_a_batch_that_waits_is_cancelled(start):
    server = start()
    server.work.can_run = False
    batch = await server.batch(lines(range(5)))
    await server.service.cancel("me", batch.id)
    server.work.can_run = True
    ended = await server.ended(batch)
    assert (ended.status, ended.output_id) == (BatchStatus.CANCELLED, None)
    assert server.work.begun == []


async def test_an_expired_batch_keeps_its_finished_part_and_names_the_rest(start):
    server = start()
    server.work.can_run = False
    server.work.outcomes |= {0: answered(0), 1: DeadlineExceeded()}
    batch = await server.batch(lines(range(10)))
    server.later_s = WINDOW_S - 1000
    server.work.can_run = True
    ended = await server.ended(batch)
    assert (ended.status, ended.counts) == (BatchStatus.EXPIRED, Counts(10, 1, 9))
    assert list(await server.told(ended.output_id)) == ["c0"]
    errors = await server.told(ended.error_id)
    assert {line["error"]["code"] for line in errors.values()} == {"batch_expired"}
    assert len(errors) == 9


async def test_a_batch_whose_time_has_passed_is_not_run(start):
    server = start()
    server.work.can_run = False
    batch = await server.batch(lines(range(10)))
    server.later_s = WINDOW_S + 1
    server.work.can_run = True
    ended = await server.ended(batch)
    assert (ended.status, ended.counts) == (BatchStatus.EXPIRED, Counts(10, 0, 10))
    assert server.work.begun == []


async def test_a_server_that_stops_leaves_the_rest_to_the_next(start):
    first = start()
    first.work.outcomes |= {n: answered(n) for n in range(0, 40, 2)}
    batch = await first.batch(lines(range(40)))
    await first.until(batch, lambda now: now.counts.completed > 0)
    await first.service.stop(0)
    before = (await first.service.batch("me", batch.id)).counts.completed
    assert (await first.service.batch("me", batch.id)).status is BatchStatus.IN_PROGRESS

    second = start()
    second.work.gate.set()
    ended = await second.ended(batch)
    assert ended.counts == Counts(40, 40, 0)
    assert len(await second.told(ended.output_id)) == 40
    assert len(second.work.begun) == 40 - before, "no line that was answered is run again"


async def test_of_two_servers_one_runs_it(start):
    first, second = start(), start()
    batch = await first.batch(lines(range(20)))
    await first.until(batch, lambda now: now.status is BatchStatus.IN_PROGRESS)
    for _ in range(3):
        await second.runner.find()
    for server in (first, second):
        server.work.gate.set()
    ended = await first.ended(batch)
    assert sorted(first.work.begun + second.work.begun) == list(range(20))
    assert ended.counts == Counts(20, 20, 0)


async def test_what_is_answered_while_the_last_is_kept_is_kept_too(start, monkeypatch):
    """It was lost: whoever keeps found the batch over when it came back from the disk."""
    server, append = start(), Results.append
    loop, is_first = asyncio.get_running_loop(), iter([True])

    def slow(self: Results, answers: list[Numbered], failures: list[Numbered]) -> None:
        if next(is_first, False):
            loop.call_soon_threadsafe(server.work.gate.set)
            while len(server.work.begun) < 20:
                time.sleep(0.01)
            time.sleep(0.1)  # until the last of them is answered
        append(self, answers, failures)

    monkeypatch.setattr(Results, "append", slow)
    server.work.outcomes[0] = answered(0)
    ended = await server.ended(await server.batch(lines(range(20))))
    assert ended.counts == Counts(20, 20, 0)


async def test_outputs_are_published_by_whoever_comes_after(start):
    """The first has moved one of two files when it ends."""
    first = start()
    first.work.gate.set()
    first.work.outcomes[3] = Reply(422, b"{}")
    take_in, taken = first.contents.take_in, []

    def fails_at_second(path: Path, file_id: str) -> Any:
        taken.append(path)
        if len(taken) > 1:
            raise StorageUnavailable
        return take_in(path, file_id)

    first.contents.take_in = fails_at_second
    batch = await first.batch(lines(range(10)))
    await first.until(batch, lambda now: len(taken) > 1)
    assert await first.service.stop(0) is None
    assert (await first.service.batch("me", batch.id)).status is BatchStatus.FINALIZING

    second = start()
    ended = await second.ended(batch)
    assert (ended.status, ended.counts) == (BatchStatus.COMPLETED, Counts(10, 9, 1))
    assert len(await second.told(ended.output_id)) == 9
    assert list(await second.told(ended.error_id)) == ["c3"]
    assert second.work.begun == []
    assert await second.runner.delete_strays() == 0


async def test_a_full_disk_is_waited_for(start, monkeypatch):
    server = start()
    server.work.gate.set()
    sync = os.fdatasync
    failed: list[int] = []

    def full(descriptor: int) -> None:
        if len(failed) < 3:
            failed.append(descriptor)
            raise OSError(errno.ENOSPC, "disk full")
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", full)
    batch = await server.ended(await server.batch(lines(range(30))))
    assert (batch.counts, len(failed)) == (Counts(30, 30, 0), 3)
    assert len(await server.told(batch.output_id)) == 30


async def test_a_batch_whose_file_was_taken_away_fails(start):
    server = start()
    server.work.can_run = False
    batch = await server.batch(lines(range(3)))
    server.contents.delete([batch.input_file_id])
    server.work.can_run = True
    ended = await server.ended(batch)
    assert (ended.status, ended.problems[0].code) == (BatchStatus.FAILED, "input_file_missing")


async def test_what_was_left_behind_is_deleted(start):
    server = start()
    batch = await server.batch(lines([1]))
    left = server.contents.receive("file-left")
    left.finish()
    under_way = server.contents.receive("file-under-way")
    left.close(is_kept=True)  # its server ended before it had a row
    assert await server.runner.delete_strays() == 1
    assert set(server.contents.left_behind()) == {batch.input_file_id}
    under_way.close(is_kept=False)
    server.work.gate.set()
    await server.ended(batch)
    server.later_s = 2e6
    await server.runner.sweep()
    assert list(server.contents.left_behind()) == []


async def test_a_caller_of_many_batches_leaves_places_to_others(start):
    server = start()
    batches = [await server.batch(lines([n])) for n in range(OF_ONE_CALLER + 2)]
    await server.until(batches[0], lambda now: now.status is BatchStatus.IN_PROGRESS)
    await server.runner.find()
    assert (await server.service.batch("me", batches[-1].id)).status is BatchStatus.VALIDATING
    server.work.gate.set()
    for batch in batches:
        assert (await server.ended(batch)).counts == Counts(1, 1, 0)
