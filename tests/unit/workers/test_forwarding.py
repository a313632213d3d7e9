"""The worker's loop for models that another server answers for, with one that does as told."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.core.errors import ModelUnavailable
from app.core.parameters import resolve
from app.core.types import Priority
from app.core.upstream import Call, UpstreamOptions
from app.runtimes.upstream_refusals import REFUSED_KEY, KeyRefused, Unreachable
from app.tasks.remote_generate import RemoteGenerate
from app.tasks.remote_parameters import REMOTE_GENERATE
from app.workers.forwarding import ForwardingLoop
from app.workers.messages import Ended, Health, ItemDone, Pieces, Started, Used, WireItem
from app.workers.replies import Announcement
from tests.fakes import FakeClock, Replies, served_by, settle_tasks, until


class AnswersWhenLet:
    """Notes who is asked; each prompt is answered once it is let, with itself in capitals."""

    def __init__(self, max_concurrent: int) -> None:
        self.options = UpstreamOptions(
            base_url="http://h/v1", model="m", max_concurrent=max_concurrent
        )
        self.asked: list[str] = []
        self.out: set[str] = set()
        self.outage = ""
        self.checks = 0
        self.is_closed = False
        self._let: dict[str, asyncio.Event] = {}
        self._failures: dict[str, Exception] = {}

    def let(self, prompt: str, failure: Exception | None = None) -> None:
        if failure is not None:
            self._failures[prompt] = failure
        self._let.setdefault(prompt, asyncio.Event()).set()

    async def problem(self) -> str:
        self.checks += 1
        return self.outage

    async def whole(self, call: Call, left_s: float, request_id: str) -> bytes:
        prompt: str = call.body["prompt"]
        self.asked.append(prompt)
        self.out.add(prompt)
        try:
            await self._let.setdefault(prompt, asyncio.Event()).wait()
        finally:
            self.out.remove(prompt)
        if prompt in self._failures:
            raise self._failures[prompt]
        return json.dumps({"choices": [{"text": prompt.upper()}]}).encode()

    async def events(
        self, call: Call, left_s: float, request_id: str
    ) -> AsyncGenerator[bytes, None]:
        for word in (await self.whole(call, left_s, request_id)).split():
            yield json.dumps({"choices": [{"text": f"{len(word)} "}]}).encode()
        yield b"[DONE]"

    async def close(self) -> None:
        self.is_closed = True


class Bench:
    def __init__(self, max_concurrent: int = 8) -> None:
        self.clock = FakeClock()
        self.replies = Replies()
        self.announced: list[Announcement] = []
        self.runtime = AnswersWhenLet(max_concurrent)
        self.loop = ForwardingLoop(
            runtime=self.runtime,
            tasks={"far:v1": RemoteGenerate()},
            reply=self.replies,
            announce=self.announced.append,
            clock=self.clock,
        )
        self._items = 0

    def submit(self, prompt: str, *, caller: str = "", stream: bool = False, **given: Any) -> int:
        self._items += 1
        priority = given.pop("priority", Priority.NORMAL)
        item = WireItem(
            self._items,
            "far:v1",
            prompt,
            resolve(REMOTE_GENERATE, given),
            1e6,
            priority=priority,
            caller=caller,
            stream=stream,
        )
        self.loop.submit([item])
        return self._items

    async def until_out(self, *prompts: str) -> None:
        await until(lambda: self.runtime.out == set(prompts))

    async def until_checked(self, times: int) -> None:
        await until(lambda: self.runtime.checks == times)

    def health(self) -> list[str]:
        return [said.outage for said in self.announced if isinstance(said, Health)]


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    async with served_by(bench.loop):
        yield bench


async def test_each_is_answered_with_its_own_and_its_times():
    async with running(Bench()) as bench:
        first, second = bench.submit("a"), bench.submit("b")
        await until(lambda: bench.runtime.out == {"a", "b"})
        bench.clock.tick(0.5)
        bench.runtime.let("b")
        bench.runtime.let("a")
        replies = await bench.replies.of(first, second)
    assert [reply.value for reply in replies if isinstance(reply, ItemDone)] == ["A", "B"]
    assert {reply.compute_ms for reply in replies if isinstance(reply, ItemDone)} == {500.0}
    assert len(bench.loop.take_batches()) == 2 and bench.loop.take_batches() == []
    assert bench.runtime.is_closed


async def test_no_more_are_out_than_may_be_and_callers_take_turns():
    async with running(Bench(max_concurrent=1)) as bench:
        items = [bench.submit(f"many{at}", caller="many") for at in range(3)]
        await until(lambda: bool(bench.runtime.out))
        items.append(bench.submit("few", caller="few"))
        items.append(bench.submit("urgent", caller="x", priority=Priority.INTERACTIVE))
        assert (bench.loop.running, bench.loop.waiting) == (1, 4)
        for prompt in ("many0", "urgent", "few", "many1", "many2"):
            await bench.until_out(prompt)
            bench.runtime.let(prompt)
        await bench.replies.of(*items)


async def test_who_leaves_is_asked_for_no_longer_and_makes_room():
    async with running(Bench(max_concurrent=1)) as bench:
        out, waiting, last = bench.submit("a"), bench.submit("b"), bench.submit("c")
        await until(lambda: bench.runtime.out == {"a"})
        bench.loop.cancel([out, waiting])
        await until(lambda: bench.runtime.out == {"c"})
        bench.runtime.let("c")
        await bench.replies.of(last)
    assert bench.runtime.asked == ["a", "c"] and bench.replies.by_id.keys() == {last}
    started = [said.run for said in bench.announced if isinstance(said, Started)]
    ended = [said.run for said in bench.announced if isinstance(said, Ended)]
    assert started == ended == [out, last]


async def test_pieces_come_before_the_answer_and_make_it_up():
    async with running(Bench()) as bench:
        item = bench.submit("a b", stream=True)
        bench.runtime.let("a b")
        (reply,) = await bench.replies.of(item)
    pieces = [said.items[0] for said in bench.announced if isinstance(said, Pieces)]
    assert isinstance(reply, ItemDone) and len(pieces) > 1
    assert "".join(piece.text for _, piece in pieces) == reply.value
    assert sum(piece.tokens for _, piece in pieces) == reply.output_tokens


async def test_what_a_stream_used_is_told_with_its_pieces_as_far_as_it_is_known():
    """The other server tells of the prompt with the end."""
    async with running(Bench()) as bench:
        item = bench.submit("a b", stream=True)
        bench.runtime.let("a b")
        await bench.replies.of(item)
    used = [each for said in bench.announced if isinstance(said, Pieces) for each in said.used]
    assert used == [Used(item, 0, at) for at in range(1, 5)]


async def test_one_that_fails_or_cannot_be_asked_fails_alone():
    async with running(Bench()) as bench:
        refused = bench.submit("a", json_schema="{}")
        broken, bug, well = bench.submit("b"), bench.submit("c"), bench.submit("d")
        bench.runtime.let("b", ModelUnavailable("it failed"))
        bench.runtime.let("c", KeyError("a bug"))
        bench.runtime.let("d")
        await bench.replies.of(refused, broken, bug, well)
    codes = [bench.replies.code_of(item) for item in (refused, broken, bug, well)]
    assert codes == ["invalid_request", "model_unavailable", "internal", "ok"]
    assert bench.health() == []


async def test_health_is_asked_now_and_then_and_told_when_it_changes():
    async with running(Bench()) as bench:
        await settle_tasks()
        for outage, pause_s in (("", 10), ("away", 10), ("away", 2), ("", 2), ("", 10)):
            bench.runtime.outage = outage
            before = bench.runtime.checks
            bench.clock.move(pause_s - 0.1)
            await settle_tasks()
            assert bench.runtime.checks == before
            bench.clock.move(0.1)
            await bench.until_checked(before + 1)
            await settle_tasks()
    assert bench.health() == ["away", ""]


async def test_who_could_not_be_reached_is_asked_for_his_health_at_once():
    async with running(Bench()) as bench:
        item = bench.submit("a")
        bench.runtime.outage = "away"
        bench.runtime.let("a", Unreachable())
        await bench.replies.of(item)
        await until(lambda: bench.health() == ["away"])


async def refuse_key(bench: Bench, prompt: str) -> None:
    item = bench.submit(prompt)
    bench.runtime.let(prompt, KeyRefused())
    await bench.replies.of(item)


async def check_health(bench: Bench) -> None:
    before = bench.runtime.checks
    bench.clock.move(10)
    await bench.until_checked(before + 1)
    await settle_tasks()


async def test_a_key_that_is_refused_keeps_the_version_out_for_longer_each_time():
    """Its server's health answers anybody: the version came back at every check, for nothing."""
    async with running(Bench()) as bench:
        for prompt, checks in (("a", 1), ("b", 2), ("c", 4)):
            told = len(bench.health())
            await refuse_key(bench, prompt)
            for _ in range(checks):
                assert bench.health()[told:] == [REFUSED_KEY]
                await check_health(bench)
            assert bench.health()[told:] == [REFUSED_KEY, ""]


async def test_a_key_that_was_taken_meanwhile_is_doubted_as_at_first():
    async with running(Bench()) as bench:
        for prompt in ("a", "b"):
            await refuse_key(bench, prompt)
            await check_health(bench)
            item = bench.submit(f"{prompt} again")
            bench.runtime.let(f"{prompt} again")
            await bench.replies.of(item)
    assert bench.health() == [REFUSED_KEY, "", REFUSED_KEY, ""]


async def test_health_that_tells_of_the_key_is_believed():
    async with running(Bench()) as bench:
        await refuse_key(bench, "a")
        await check_health(bench)
        await refuse_key(bench, "b")
        for bench.runtime.outage in (REFUSED_KEY, ""):
            await check_health(bench)
    assert bench.health() == [REFUSED_KEY, "", REFUSED_KEY, ""]


async def test_another_outage_is_told_while_a_key_is_doubted():
    async with running(Bench()) as bench:
        await refuse_key(bench, "a")
        await check_health(bench)
        await refuse_key(bench, "b")
        bench.runtime.outage = "away"
        await check_health(bench)
    assert bench.health() == [REFUSED_KEY, "", REFUSED_KEY, "away"]
