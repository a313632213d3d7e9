"""The worker's loop for models that generate, with a runtime that counts instead of thinking."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.parameters import resolve
from app.core.types import Piece, Priority
from app.scheduling.engine import StepScheduler
from app.tasks.catalogue import task_info
from app.tasks.generate import Generate
from app.workers.generating import GeneratingLoop
from app.workers.messages import Ended, ItemDone, ItemFailed, Pieces, Started, WireItem
from tests.fakes import (
    ENDLESS,
    GUARD_S,
    CountsUp,
    FakeClock,
    RefusesWord,
    Replies,
    lone_lease,
    served_by,
    settle_tasks,
    until,
)


class StumblesInFinish(Generate):
    """A task with a bug."""

    def finish(self, plan, generated, decode):
        raise KeyError("a bug in the task")


class StumblesInPrepare(Generate):
    def prepare(self, text, parameters, tokenizer):
        raise KeyError("a bug in the task")


class Bench:
    """A loop, its clock, and what it answered."""

    def __init__(
        self,
        runtime: CountsUp | None = None,
        *,
        max_sequences: int = 8,
        task: Generate | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.replies = Replies()
        self.announced: list[Started | Ended | Pieces] = []
        self.runtime = runtime or CountsUp()
        self.runtime.tokenizer.max_tokens = 2 * ENDLESS
        self.loop = GeneratingLoop(
            runtime=self.runtime,
            tasks={
                "generator:v1": task or Generate(),
                "stumbles:v1": StumblesInFinish(),
                "trips:v1": StumblesInPrepare(),
            },
            scheduler=StepScheduler(max_sequences, self.runtime.max_running_tokens),
            lease=lone_lease(),
            reply=self.replies,
            announce=self.announced.append,
            clock=self.clock,
        )
        self._items = 0

    def submit(
        self,
        text: str,
        new_tokens: int,
        *,
        timeout_ms: float = 1e6,
        model: str = "generator",
        priority: Priority = Priority.NORMAL,
        stream: bool = False,
        **given: Any,
    ) -> int:
        self._items += 1
        given = {"temperature": 0, "max_new_tokens": new_tokens, **given}
        parameters = resolve(task_info("generate", "tokens").parameters, given)
        version = f"{model}:v1"
        item = WireItem(
            self._items, version, text, parameters, timeout_ms, priority=priority, stream=stream
        )
        self.loop.submit([item])
        return self._items

    async def answer(self, item: int) -> ItemDone:
        (reply,) = await self.replies.of(item)
        assert isinstance(reply, ItemDone), reply
        return reply

    def told(self, item: int) -> list[tuple[str, int]]:
        """Pieces of an item, with their tokens."""
        return [(piece.text, piece.tokens) for piece in self.pieces(item)]

    def pieces(self, item: int) -> list[Piece]:
        frames = [said.items for said in self.announced if isinstance(said, Pieces)]
        return [piece for each in frames for of, piece in each if of == item]

    def used(self, item: int) -> list[tuple[int, int]]:
        """Tokens of an item, read and written, as they were told."""
        frames = [said.used for said in self.announced if isinstance(said, Pieces)]
        return [(u.input_tokens, u.output_tokens) for each in frames for u in each if u.id == item]

    def expected(self, text: str, new_tokens: int) -> str:
        last = self.runtime.tokenizer.encode([text])[0][-1]
        return " ".join(str(last + n) for n in range(1, new_tokens + 1))


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    async with served_by(bench.loop):
        yield bench


async def test_an_interactive_prompt_joins_before_those_that_came_earlier():
    bench = Bench(max_sequences=1)
    patient = bench.submit("one", 1, priority=Priority.BATCH)
    urgent = bench.submit("two", 1, priority=Priority.INTERACTIVE)
    async with running(bench):
        await bench.replies.of(patient, urgent)

    assert bench.runtime.joined == [urgent, patient]


async def test_the_backlog_is_what_waits_at_the_pace_at_which_places_are_freed():
    bench, told = Bench(max_sequences=1), list[float | None]()

    def pass_time(_: int) -> None:
        told.append(bench.loop.backlog_ms)
        bench.clock.move(0.1)

    bench.runtime.on_step = pass_time
    items = [bench.submit(text, 4) for text in ("one", "two", "three")]
    async with running(bench):
        await bench.replies.of(*items)

    assert told[:4] == [None] * 4  # nothing has shown how fast it is
    assert told[4] == pytest.approx(400.0, rel=0.02)  # one waits, and each takes 4 steps
    assert told[8:] == [0.0] * 4


async def test_an_item_is_answered_with_the_continuation_of_its_own_prompt():
    async with running(Bench()) as bench:
        reply = await bench.answer(bench.submit("one two", 3))

    assert reply.value == bench.expected("one two", 3)
    assert reply.metadata == {"finish_reason": "length"}
    assert (reply.input_tokens, reply.output_tokens) == (2, 3)


async def test_a_second_prompt_joins_between_two_steps_of_the_first():
    async with running(Bench()) as bench:
        long = bench.submit("long", ENDLESS)
        await until(lambda: len(bench.runtime.steps) > 3)
        short = bench.submit("short", 2)
        await bench.answer(short)
        assert long not in bench.replies.by_id
        bench.loop.cancel([long])

    assert {long, short} in bench.runtime.steps


async def test_an_idle_loop_makes_no_steps():
    async with running(Bench()) as bench:
        await bench.answer(bench.submit("one", 2))
        ran = len(bench.runtime.steps)
        await settle_tasks()

    assert len(bench.runtime.steps) == ran == 2


async def test_a_caller_who_leaves_stops_the_generation_before_the_next_step():
    def leave(step: int) -> None:
        if step == 5:
            bench.loop.cancel([gone])

    bench = Bench(CountsUp(on_step=leave))
    async with running(bench):
        gone = bench.submit("gone", ENDLESS)
        await until(lambda: bool(bench.runtime.cancelled))
        stays = bench.submit("stays", 1)
        await bench.answer(stays)

    assert bench.runtime.cancelled == [gone]
    assert sum(gone in step for step in bench.runtime.steps) == 5
    assert gone not in bench.replies.by_id


async def test_a_cancelled_prompt_that_waits_never_joins():
    async with running(Bench(max_sequences=1)) as bench:
        first, gone, stays = (bench.submit(*each) for each in (("a", ENDLESS), ("b", 1), ("c", 1)))
        await until(lambda: bench.loop.waiting == 2)
        bench.loop.cancel([gone, first])
        await bench.answer(stays)

    assert bench.runtime.joined == [first, stays]
    assert gone not in bench.replies.by_id


async def test_a_prompt_cancelled_before_it_is_tokenised_never_joins():
    async with running(Bench()) as bench:
        gone, stays = bench.submit("gone", 1), bench.submit("stays", 1)
        bench.loop.cancel([gone])
        await bench.answer(stays)

    assert bench.runtime.joined == [stays]


async def test_a_generation_that_outlives_its_deadline_is_stopped_and_its_caller_told():
    def pass_time(step: int) -> None:
        bench.clock.tick(0.010)

    bench = Bench(CountsUp(on_step=pass_time))
    async with running(bench):
        late = bench.submit("late", ENDLESS, timeout_ms=35)
        await bench.replies.of(late)

    assert bench.replies.code_of(late) == "deadline_exceeded"
    assert bench.runtime.cancelled == [late]
    assert len(bench.runtime.steps) == 4


async def test_a_prompt_that_expires_while_it_waits_is_told_and_never_joins():
    async with running(Bench(max_sequences=1)) as bench:
        first, late = bench.submit("a", ENDLESS), bench.submit("b", 1, timeout_ms=50)
        await until(lambda: bench.loop.waiting == 1)
        bench.clock.tick(0.05)
        await bench.replies.of(late)

    assert bench.replies.code_of(late) == "deadline_exceeded"
    assert bench.runtime.joined == [first]


async def test_a_prompt_larger_than_the_cache_is_refused_with_both_counts():
    async with running(Bench(CountsUp(max_running_tokens=20))) as bench:
        (reply,) = await bench.replies.of(bench.submit("a b", 19))

    assert isinstance(reply, ItemFailed)
    assert reply.code == "input_too_long"
    assert "21 tokens" in reply.message
    assert "20" in reply.message


async def test_an_input_that_the_task_refuses_fails_alone_with_the_reason():
    async with running(Bench()) as bench:
        refused = bench.submit("a", 1, num_return_sequences=2)
        fine = bench.submit("b", 1)
        await bench.answer(fine)
        (reply,) = await bench.replies.of(refused)

    assert isinstance(reply, ItemFailed)
    assert reply.code == "invalid_request"
    assert "num_return_sequences" in reply.message


@pytest.mark.parametrize("model", ["trips", "stumbles"], ids=["in prepare", "in finish"])
async def test_a_bug_in_a_task_fails_one_item_and_tells_its_caller_nothing_of_it(model):
    async with running(Bench()) as bench:
        unlucky = bench.submit("a", 2, model=model)
        fine = bench.submit("b", 2)
        await bench.answer(fine)
        (reply,) = await bench.replies.of(unlucky)

    assert isinstance(reply, ItemFailed)
    assert reply.code == "internal"
    assert "bug" not in reply.message


async def test_a_prompt_that_the_engine_does_not_take_fails_alone():
    """It once ended the worker, and with it every generation that ran beside it."""
    async with running(Bench(RefusesWord())) as bench:
        beside = bench.submit("fine", ENDLESS)
        await until(lambda: bench.loop.running == 1)
        poison = bench.submit("some poison", 3)
        await bench.replies.of(poison)
        assert bench.loop.running == 1
        bench.loop.cancel([beside])
        after = await bench.answer(bench.submit("after", 1))

    assert bench.replies.code_of(poison) == "internal"
    assert after.output_tokens == 1
    assert bench.loop.running == 0


async def test_a_broken_step_ends_the_loop():
    """Whose fault it is cannot be known and the engine is in doubt: a fresh process is started."""

    def explode(step: int) -> None:
        raise RuntimeError("the engine is on fire")

    bench = Bench(CountsUp(on_step=explode))
    task = asyncio.create_task(bench.loop.run())
    bench.submit("a", 3)
    async with asyncio.timeout(GUARD_S):
        with pytest.raises(RuntimeError, match="on fire"):
            await task


async def test_several_sequences_of_a_prompt_come_back_as_a_list():
    async with running(Bench()) as bench:
        item = bench.submit("a", 2, num_return_sequences=3, temperature=1, seed=7)
        reply = await bench.answer(item)

    assert reply.value == [bench.expected("a", 2)] * 3
    assert reply.metadata == {"finish_reason": ["length"] * 3, "seed": 7}
    assert reply.output_tokens == 6


async def test_times_are_those_of_waiting_and_of_running():
    def pass_time(step: int) -> None:
        bench.clock.tick(0.010)

    bench = Bench(CountsUp(on_step=pass_time), max_sequences=1)
    async with running(bench):
        first, second = bench.submit("a", 3), bench.submit("b", 2)
        await bench.answer(first)
        reply = await bench.answer(second)

    assert reply.queue_ms == pytest.approx(30)
    assert reply.compute_ms == pytest.approx(20)


async def test_a_sequence_is_announced_before_it_joins_and_when_it_leaves():
    bench = Bench(RefusesWord())
    async with running(bench):
        poison = bench.submit("poison", 3)
        done = bench.submit("a", 1)
        late = bench.submit("b", ENDLESS, timeout_ms=50)
        left = bench.submit("c", ENDLESS)
        await bench.answer(done)
        assert Started(late, [late], 0.0) in bench.announced
        assert Ended(late) not in bench.announced
        bench.loop.cancel([left])
        bench.clock.move(0.05)
        await bench.replies.of(poison, late)
        await until(lambda: bench.loop.running == 0)

    for item in (poison, done, late, left):
        about = [m for m in bench.announced if not isinstance(m, Pieces) and m.run == item]
        assert about == [Started(item, [item], 0.0), Ended(item)]


async def test_every_step_is_reported_once_with_the_prompt_tokens_that_it_read():
    async with running(Bench()) as bench:
        await bench.answer(bench.submit("a", 3))
        steps = bench.loop.take_batches()

    assert [(step.rows, step.real_tokens) for step in steps] == [(1, 2), (1, 1), (1, 1)]
    assert bench.loop.take_batches() == []


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 6),  # new tokens
            st.sampled_from(["keep", "keep", "cancel", "cancel later", "poison"]),
            st.integers(0, 6),  # turns of the event loop before the next item
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 3),
)
def test_every_answer_is_its_own_prompts_however_callers_come_and_go(plan, max_sequences):
    asyncio.run(_interleave(plan, max_sequences))


async def _interleave(plan: list[tuple[int, str, int]], max_sequences: int) -> None:
    async with running(Bench(RefusesWord(max_running_tokens=20), max_sequences=max_sequences)) as b:
        kept: dict[int, str] = {}
        poisoned, leaving = set(), []
        for number, (tokens, fate, turns) in enumerate(plan):
            text = "poison" if fate == "poison" else f"word{number}"
            item = b.submit(text, tokens)
            if fate == "keep":
                kept[item] = b.expected(text, tokens)
            elif fate == "poison":
                poisoned.add(item)
            elif fate == "cancel":
                b.loop.cancel([item])
            else:
                leaving.append(item)
            for _ in range(turns):
                await asyncio.sleep(0)
            b.loop.cancel(leaving[:-1])
        await b.replies.of(*kept, *poisoned)
        b.loop.cancel(leaving)
        await until(lambda: b.loop.running == b.loop.waiting == 0)

        assert {item: (await b.answer(item)).value for item in kept} == kept
        assert {b.replies.code_of(item) for item in poisoned} <= {"internal"}
        assert b.replies.by_id.keys() <= kept.keys() | poisoned | set(leaving)
        assert not b.loop._pending, "something is kept of an item that is over"
        assert not b.runtime._made, "the engine still computes for nobody"


async def test_a_streamed_text_is_told_as_its_steps_end():
    bench = Bench()
    async with running(bench):
        streamed = bench.submit("one two", 4, stream=True)
        beside = bench.submit("two", 4)
        answer = await bench.answer(streamed)
        await bench.answer(beside)

    assert bench.told(streamed) == [("3", 1), (" 4", 1), (" 5", 1), (" 6", 1)]
    assert answer.value == "3 4 5 6" and bench.told(beside) == []


async def test_all_pieces_of_a_step_are_one_message():
    bench = Bench()
    async with running(bench):
        items = [bench.submit("one", 3, stream=True) for _ in range(4)]
        await bench.replies.of(*items)

    assert [len(said.items) for said in bench.announced if isinstance(said, Pieces)] == [4, 4, 4]


async def test_a_runtime_that_decodes_many_is_asked_once_per_step():
    class DecodesTogether(CountsUp):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[int] = []

        def decode_many(self, rows):
            self.calls.append(len(rows))
            return [self.decode(row) for row in rows]

    runtime = DecodesTogether()
    bench = Bench(runtime)
    async with running(bench):
        items = [bench.submit("one", 3, stream=True) for _ in range(4)]
        await bench.replies.of(*items)

    assert runtime.calls == [4, 4]  # the last step's text is the answer's
    assert ["".join(text for text, _ in bench.told(item)) for item in items] == ["2 3 4"] * 4


async def test_what_a_streamed_text_used_is_told_with_each_step_and_of_others_not():
    bench = Bench()
    async with running(bench):
        item = bench.submit("one two", 3, stream=True)
        beside = bench.submit("two", 3)
        await bench.replies.of(item, beside)

    assert bench.used(item) == [(2, 1), (2, 2), (2, 3)]
    assert bench.used(beside) == []


async def test_tokens_whose_text_has_to_wait_are_used_at_once():
    bench = Bench()
    async with running(bench):
        item = bench.submit("one", 4, stream=True, stop=["2 3 4 6"])
        await bench.answer(item)

    assert bench.told(item) == [("2 3 4 5", 4)]
    assert bench.used(item) == [(1, 1), (1, 2), (1, 3), (1, 4)]


async def test_of_several_texts_of_a_prompt_all_tokens_are_used():
    bench = Bench()
    async with running(bench):
        item = bench.submit("one", 2, stream=True, temperature=1, num_return_sequences=3)
        await bench.answer(item)

    assert bench.used(item) == [(1, 3), (1, 6)]


async def test_a_prompt_that_is_being_read_is_used_and_one_that_waits_is_not():
    bench = Bench(max_sequences=1)
    async with running(bench):
        first = bench.submit("one", ENDLESS, stream=True)
        waits = bench.submit("two", 1, stream=True)
        await until(lambda: len(bench.used(first)) > 2)
        assert bench.used(waits) == []
        bench.loop.cancel([first])
        await bench.answer(waits)

    assert bench.used(waits) == [(1, 1)]


async def test_every_piece_comes_before_the_result():
    told_at_reply: dict[int, int] = {}

    class Watches(Replies):
        def __call__(self, items):
            super().__call__(items)
            told_at_reply.update({item.id: len(bench.told(item.id)) for item in items})

    bench = Bench()
    bench.loop._reply = Watches()
    async with running(bench):
        item = bench.submit("one", 3, stream=True)
        await until(lambda: item in told_at_reply)

    assert told_at_reply == {item: 3}


async def test_several_texts_are_told_side_by_side():
    bench = Bench()
    async with running(bench):
        item = bench.submit("one", 3, stream=True, temperature=1, num_return_sequences=2)
        await bench.answer(item)

    told = [(piece.index, piece.text, piece.tokens) for piece in bench.pieces(item)]
    assert told == [(i, text, 1) for text in ("2", " 3", " 4") for i in (0, 1)]


async def test_of_beams_nothing_is_told_before_they_have_ended():
    bench = Bench()
    async with running(bench):
        item = bench.submit("one", 3, stream=True, num_beams=2)
        await bench.answer(item)

    assert bench.told(item) == []


async def test_prompt_and_stop_of_a_streamed_text_are_as_in_its_answer():
    bench = Bench()
    async with running(bench):
        item = bench.submit("one", 5, stream=True, stop=["3 4", "9"], return_full_text=True)
        answer = await bench.answer(item)

    assert bench.told(item) == [("one2", 1), (" ", 1)]
    assert answer.value == "one2 "


async def test_text_that_a_task_changes_afterwards_is_an_error_and_not_a_second_text():
    class Shouts(Generate):
        def finish(self, plan, generated, decode):
            answer = super().finish(plan, generated, decode)
            return replace(answer, value="no")

    bench = Bench(task=Shouts())
    async with running(bench):
        item = bench.submit("one", 2, stream=True)
        await bench.replies.of(item)

    assert bench.replies.code_of(item) == "internal"
