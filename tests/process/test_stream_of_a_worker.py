"""Texts that a real worker tells while it writes them."""

import asyncio
import time

from app.core.parameters import resolve
from app.core.types import Usage
from app.tasks.catalogue import task_info
from app.workers.status import ServingState
from tests.process.workers import (
    ANSWER_S,
    VERSION,
    Lone,
    error_of,
    eventually,
    generating,
    value_of,
)

GENERATION = resolve(
    task_info("generate", "tokens").parameters, {"max_new_tokens": 3, "temperature": 0.0}
)


async def test_pieces_cross_one_by_one_and_make_up_the_answer(bench):
    worker = bench.handle(generating("CountsToThree", bench.folder))
    await worker.start(60)
    pieces: list[tuple[str, int]] = []
    beside = worker.ask("plain", **GENERATION)
    answer = value_of(await asyncio.wait_for(worker.stream("good", pieces, GENERATION), ANSWER_S))

    assert pieces == [("1", 1), ("2", 1), ("3", 1)]
    assert answer == value_of(await beside) == "123"


async def test_a_caller_who_leaves_a_stream_ends_its_steps(bench):
    worker: Lone = bench.handle(generating("CountsSlowly", bench.folder))
    await worker.start(60)
    pieces: list[tuple[str, int]] = []
    wait = worker.stream("a sin", pieces, GENERATION)
    await eventually(lambda: len(pieces) > 3, "the first pieces")
    wait.cancel()
    left = time.monotonic()
    await eventually(lambda: isinstance(worker.runs[-1], int), "the end of the run")
    assert time.monotonic() - left < 5
    told = len(pieces)
    await asyncio.sleep(0.2)
    assert len(pieces) == told and worker.owed == 0


async def test_a_stream_that_had_begun_ends_with_its_worker_and_others_are_run_again(supervised):
    watched = await supervised.ready(generating("KilledInThirdStep", supervised.folder))
    supervisor = watched.supervisor
    pieces: list[tuple[str, int]] = []
    used: list[Usage] = []
    begun = supervisor.submit(
        VERSION,
        "a sin",
        GENERATION,
        60_000,
        on_piece=lambda p: pieces.append((p.text, p.tokens)),
        on_used=used.append,
    )
    beside = supervisor.submit(VERSION, "good", GENERATION, 60_000)
    outcome = await asyncio.wait_for(begun, ANSWER_S)

    assert error_of(outcome).code == "model_unavailable" and "ask again" in str(error_of(outcome))
    assert pieces == [("1", 1), ("2", 1)]
    assert used == [Usage(5, 1), Usage(5, 2)], "what was read and written until then is known"
    assert value_of(await asyncio.wait_for(beside, ANSWER_S)) == "123"
    await watched.until(ServingState.READY, times=2)
