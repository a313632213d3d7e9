"""The worker's loop for one forward pass per row, with invented runtimes and a clock that stands.

Threads are real, as in the loop; nothing sleeps. `until` waits for what a thread will bring.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.types import NOBODY, Asker, Priority
from app.scheduling.batcher import Batcher, BatchLimits
from app.scheduling.cost_model import CostModel
from app.workers.messages import Ended, ItemDone, ItemFailed, Pieces, Started, WireItem
from app.workers.one_shot import OneShotLoop
from tests.fakes import (
    BreaksOnWord,
    FakeClock,
    LosesARow,
    Replies,
    RowPerSentence,
    SumsTokens,
    WaitsAtTheGate,
    WordTokenizer,
    lone_lease,
    served_by,
    settle_tasks,
    until,
)

COMPANY_PAYS = CostModel(fixed_ms=20.0, per_token_ms=0.001, per_pair_ms=0.0)
TASKS = {f"{name}:v1": RowPerSentence(name) for name in ("embed", "classify", "summarize")}


class Bench:
    """A running loop, its clock, and what it answered."""

    def __init__(self, runtime: SumsTokens, *, rows: int = 8, hold_s: float = 0.0) -> None:
        self.clock = FakeClock()
        self.replies = Replies()
        self.announced: list[Started | Ended | Pieces] = []
        self.runtime = runtime
        self.batcher = Batcher(BatchLimits(rows, 10_000, hold_s, window=8), COMPANY_PAYS)
        self.loop = OneShotLoop(
            runtime=runtime,
            tasks=TASKS,
            batcher=self.batcher,
            lease=lone_lease(),
            reply=self.replies,
            announce=self.announced.append,
            clock=self.clock,
        )
        self._items = 0

    def submit(
        self,
        *texts: str,
        task: str = "embed",
        timeout_ms: float = 1e6,
        asker: Asker = NOBODY,
    ) -> list[int]:
        items = []
        for text in texts:
            self._items += 1
            item = WireItem(
                self._items,
                f"{task}:v1",
                text,
                {},
                timeout_ms,
                priority=asker.priority,
                caller=asker.caller,
            )
            items.append(item)
        self.loop.submit(items)
        return [item.id for item in items]

    def has_company(self, gap_s: float) -> None:
        """Let the batcher believe that rows have been coming this far apart, up to now."""
        for past in range(20, 0, -1):
            self.batcher.note_arrivals(1, self.clock.now() - past * gap_s)

    async def answers(self, *ids: int) -> list[ItemDone]:
        replies = await self.replies.of(*ids)
        return [reply for reply in replies if isinstance(reply, ItemDone)]

    def expected(self, task: str, text: str) -> list[object]:
        rows = self.runtime.tokenizer.encode([s for s in text.split(".") if s.strip()])
        return [task, *(float(sum(row)) for row in rows)]

    def has_run(self, text: str, *, since: int) -> bool:
        """Whether a batch after the first `since` held it."""
        (row,) = self.runtime.tokenizer.encode([text])
        return any(row in batch for batch in self.runtime.batches[since:])

    def open_gate(self) -> None:
        if isinstance(self.runtime, WaitsAtTheGate):
            self.runtime.gate.set()

    async def computing(self) -> None:
        """Return once a batch is inside the runtime."""
        before = len(self.runtime.batches)
        await until(lambda: len(self.runtime.batches) > before)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    async with served_by(bench.loop):
        try:
            yield bench
        finally:
            bench.open_gate()


async def test_an_item_is_answered_with_what_its_task_made_of_its_rows():
    async with running(Bench(SumsTokens())) as bench:
        (item,) = bench.submit("one two. three", task="summarize")
        (reply,) = await bench.answers(item)

    assert reply.value == bench.expected("summarize", "one two. three")
    assert reply.metadata == {"rows": 2}
    assert reply.input_tokens == 3


async def test_items_of_three_tasks_share_one_forward_pass():
    async with running(Bench(SumsTokens())) as bench:
        ids = [
            *bench.submit("a b", task="embed"),
            *bench.submit("c d", task="classify"),
            *bench.submit("e f. g h", task="summarize"),
        ]
        replies = await bench.answers(*ids)

    assert len(bench.runtime.batches) == 1
    assert len(bench.runtime.batches[0]) == 4
    assert [reply.value for reply in replies] == [
        bench.expected("embed", "a b"),
        bench.expected("classify", "c d"),
        bench.expected("summarize", "e f. g h"),
    ]


async def test_a_lone_item_on_an_idle_worker_is_not_held():
    async with running(Bench(SumsTokens(), hold_s=10.0)) as bench:
        (reply,) = await bench.answers(*bench.submit("hello"))

    assert reply.queue_ms == 0.0


async def test_a_steady_stream_is_held_for_company_until_the_hold_is_over():
    async with running(Bench(SumsTokens(), hold_s=0.015)) as bench:
        bench.has_company(gap_s=0.001)
        (held,) = bench.submit("held")
        await until(lambda: bench.clock.next_alarm is not None)
        (company,) = bench.submit("company")
        await until(lambda: bench.loop.waiting == 2)
        await bench.clock.advance(0.0089)
        assert bench.runtime.batches == []
        await bench.clock.advance(0.0012)
        first, _ = await bench.answers(held, company)

    assert [len(batch) for batch in bench.runtime.batches] == [2]
    assert first.queue_ms == pytest.approx(10.1)


async def test_what_is_held_runs_at_once_when_the_batch_is_full():
    async with running(Bench(SumsTokens(), rows=3, hold_s=0.015)) as bench:
        bench.has_company(gap_s=0.001)
        ids = bench.submit("held")
        await until(lambda: bench.clock.next_alarm is not None)
        ids += bench.submit("b", "c")
        assert len(await bench.answers(*ids)) == 3

    assert [len(batch) for batch in bench.runtime.batches] == [3]


async def test_a_caller_who_is_held_may_leave():
    async with running(Bench(SumsTokens(), hold_s=0.015)) as bench:
        bench.has_company(gap_s=0.001)
        (gone,) = bench.submit("held")
        await until(lambda: bench.clock.next_alarm is not None)
        bench.loop.cancel([gone])
        await bench.clock.advance(1.0)
        await bench.answers(*bench.submit("stays"))

    assert bench.runtime.batches == [bench.runtime.tokenizer.encode(["stays"])]


async def test_waiting_rows_are_spread_over_the_streams():
    async with running(Bench(WaitsAtTheGate(streams=2))) as bench:
        ids = bench.submit("a", "b", "c", "d")
        await until(lambda: len(bench.runtime.batches) == 2)
        assert bench.loop.running == 2
        bench.open_gate()
        await bench.answers(*ids)

    assert [len(batch) for batch in bench.runtime.batches] == [2, 2]


async def test_a_single_text_waits_for_no_more_than_the_running_batch_of_another_caller():
    async with running(Bench(WaitsAtTheGate(), rows=2)) as bench:
        ids = bench.submit(*(f"text {n}" for n in range(100)), asker=Asker("heavy"))
        await bench.computing()
        (mine,) = bench.submit("mine", asker=Asker("light"))
        await until(lambda: bench.loop.waiting == 99)
        bench.open_gate()
        await bench.answers(*ids, mine)

    assert bench.runtime.tokenizer.encode(["mine"])[0] in bench.runtime.batches[1]


async def test_interactive_items_overtake_batch_items():
    async with running(Bench(WaitsAtTheGate(), rows=1)) as bench:
        (first,) = bench.submit("first")
        await bench.computing()
        (patient,) = bench.submit("patient", asker=Asker(priority=Priority.BATCH))
        (urgent,) = bench.submit("urgent", asker=Asker(priority=Priority.INTERACTIVE))
        await until(lambda: bench.loop.waiting == 2)
        bench.open_gate()
        await bench.answers(first, patient, urgent)

    order = [row for batch in bench.runtime.batches for row in batch]
    assert order == bench.runtime.tokenizer.encode(["first", "urgent", "patient"])


async def test_a_cancelled_item_that_waits_never_reaches_the_runtime():
    async with running(Bench(WaitsAtTheGate())) as bench:
        (first,) = bench.submit("first")
        await bench.computing()
        gone, stays = bench.submit("gone. with. rows", "stays")
        await until(lambda: bench.loop.waiting == 4)
        bench.loop.cancel([gone])
        assert bench.loop.waiting == 1
        bench.open_gate()
        await bench.answers(first, stays)
        await settle_tasks()

    assert bench.runtime.batches[1:] == [bench.runtime.tokenizer.encode(["stays"])]
    assert gone not in bench.replies.by_id


async def test_an_item_cancelled_before_it_is_tokenised_never_reaches_the_runtime():
    async with running(Bench(SumsTokens())) as bench:
        gone, stays = bench.submit("gone", "stays")
        bench.loop.cancel([gone])
        await bench.answers(stays)

    assert bench.runtime.batches == [bench.runtime.tokenizer.encode(["stays"])]
    assert gone not in bench.replies.by_id


async def test_a_caller_who_leaves_in_the_middle_of_a_batch_gets_nothing_and_harms_nobody():
    async with running(Bench(WaitsAtTheGate())) as bench:
        gone, stays = bench.submit("gone", "stays")
        await bench.computing()
        bench.loop.cancel([gone])
        bench.open_gate()
        (reply,) = await bench.answers(stays)
        await settle_tasks()

    assert reply.value == bench.expected("embed", "stays")
    assert gone not in bench.replies.by_id


async def test_nothing_is_said_when_everybody_has_left():
    """A message without answers once went out, and counted as a sign of a healthy worker."""
    async with running(Bench(SumsTokens())) as bench:
        (gone,) = bench.submit("...")  # no rows: it is finished as soon as it is tokenised
        await until(lambda: not bench.loop._finished.empty())
        bench.loop.cancel([gone])
        await bench.answers(*bench.submit("stays"))

    assert bench.replies.calls == 1


async def test_an_item_that_expires_while_it_waits_is_told_and_not_run():
    async with running(Bench(WaitsAtTheGate())) as bench:
        (first,) = bench.submit("first")
        await bench.computing()
        (late,) = bench.submit("late. and. long", timeout_ms=50)
        (stays,) = bench.submit("stays")
        await until(lambda: bench.loop.waiting == 4)
        bench.clock.move(0.05)
        bench.open_gate()
        await bench.answers(first, late, stays)

    assert bench.replies.code_of(late) == "deadline_exceeded"
    assert bench.runtime.batches[1:] == [bench.runtime.tokenizer.encode(["stays"])]


async def test_expired_rows_beyond_the_window_are_not_run_when_they_come_up():
    """Expired rows that moved into the window as others left it were once chosen and run."""
    async with running(Bench(WaitsAtTheGate(), rows=4)) as bench:
        (first,) = bench.submit("first")
        await bench.computing()
        late = bench.submit(*(f"late{n}" for n in range(20)), timeout_ms=50)
        (stays,) = bench.submit("stays")
        also_late = bench.submit("late", timeout_ms=50)
        await until(lambda: bench.loop.waiting == 22)
        bench.clock.move(0.05)
        bench.open_gate()
        await bench.answers(first, *late, stays, *also_late)

    assert {bench.replies.code_of(i) for i in late + also_late} == {"deadline_exceeded"}
    assert bench.runtime.batches[1:] == [bench.runtime.tokenizer.encode(["stays"])]


async def test_a_row_that_breaks_its_batch_fails_alone():
    async with running(Bench(BreaksOnWord("bad"))) as bench:
        ids = bench.submit("a", "b", "c", "bad", "d", "e", "f", "g")
        await bench.replies.of(*ids)

    assert [bench.replies.code_of(i) for i in ids] == ["ok"] * 3 + ["internal"] + ["ok"] * 4
    assert sorted(map(len, bench.runtime.batches)) == [1, 1, 2, 2, 4, 4, 8]


async def test_a_batch_of_nothing_but_poison_takes_twice_its_rows_in_runs_at_most():
    async with running(Bench(BreaksOnWord("bad"))) as bench:
        ids = bench.submit(*["bad"] * 8)
        await bench.replies.of(*ids)
        await bench.answers(*bench.submit("after"))

    assert {bench.replies.code_of(item) for item in ids} == {"internal"}
    assert len(bench.runtime.batches) == 15 + 1


async def test_rows_that_wait_go_with_their_item_when_one_of_its_rows_breaks():
    async with running(Bench(BreaksOnWord("bad"), rows=2)) as bench:
        (item,) = bench.submit("bad. b. c. d. e")
        await bench.replies.of(item)
        assert bench.loop.waiting == 0
        (after,) = bench.submit("after")
        await bench.answers(after)

    assert bench.replies.code_of(item) == "internal"
    # Whichever of the two halves came first; nothing of c, d and e.
    assert [len(batch) for batch in bench.runtime.batches] in ([2, 1, 1], [2, 1, 1, 1])


async def test_who_leaves_while_his_batch_fails_is_not_run_again():
    def leave(batch: int) -> None:
        bench.loop.cancel([gone] if batch == 1 else [])

    bench = Bench(BreaksOnWord("bad"))
    bench.runtime._on_run = leave
    gone = 1
    async with running(bench):
        ids = bench.submit("gone", "fine", "bad")
        await bench.replies.of(*ids[1:])

    assert gone not in bench.replies.by_id
    assert not bench.has_run("gone", since=1)


async def test_who_is_late_when_his_batch_has_failed_is_told_and_not_run_again():
    bench = Bench(BreaksOnWord("bad"))
    bench.runtime._on_run = lambda batch: bench.clock.tick(0.1)
    async with running(bench):
        (late,) = bench.submit("late", timeout_ms=50)
        ids = bench.submit("fine", "bad")
        await bench.replies.of(late, *ids)

    assert [bench.replies.code_of(i) for i in (late, *ids)] == [
        "deadline_exceeded",
        "ok",
        "internal",
    ]
    assert not bench.has_run("late", since=1)


async def test_a_runtime_that_loses_a_row_is_asked_again_and_mixes_nothing_up():
    async with running(Bench(LosesARow())) as bench:
        first, second = await bench.answers(*bench.submit("a", "b"))

    # Whichever of the two halves came first; nothing of c, d and e.
    assert [len(batch) for batch in bench.runtime.batches] in ([2, 1, 1], [2, 1, 1, 1])
    assert first.value == bench.expected("embed", "a")
    assert second.value == bench.expected("embed", "b")


async def test_an_input_that_the_task_refuses_fails_alone_with_the_reason():
    async with running(Bench(SumsTokens())) as bench:
        refused, fine = bench.submit("refuse me", "fine")
        reply, _ = await bench.replies.of(refused, fine)

    assert reply == ItemFailed(refused, "input_too_long", "text is longer than this test likes")
    assert bench.replies.code_of(fine) == "ok"


@pytest.mark.parametrize("text", ["choke", "stumble"], ids=["in prepare", "in finish"])
async def test_a_bug_in_a_task_fails_one_item_and_tells_its_caller_nothing_of_it(text):
    async with running(Bench(SumsTokens())) as bench:
        unlucky, fine = bench.submit(text, "fine")
        reply, _ = await bench.replies.of(unlucky, fine)

    assert isinstance(reply, ItemFailed)
    assert reply.code == "internal"
    assert "bug" not in reply.message
    assert bench.replies.code_of(fine) == "ok"


async def test_an_item_without_rows_is_answered_without_the_runtime():
    async with running(Bench(SumsTokens())) as bench:
        (reply,) = await bench.answers(*bench.submit("..."))

    assert reply.value == ["embed"]
    assert (reply.queue_ms, reply.compute_ms) == (0.0, 0.0)
    assert bench.runtime.batches == []


async def test_time_in_the_runtime_counts_once_per_batch_and_not_once_per_row():
    """A document of eight sentences once reported eight times the time of its one batch."""
    bench = Bench(SumsTokens(on_run=lambda _: bench.clock.tick(0.010)), rows=4)
    async with running(bench):
        (reply,) = await bench.answers(*bench.submit("a. b. c. d. e. f. g. h"))

    assert len(bench.runtime.batches) == 2
    assert reply.compute_ms == pytest.approx(20.0)


async def test_every_batch_is_reported_once_with_its_padding():
    async with running(Bench(SumsTokens())) as bench:
        await bench.answers(*bench.submit("a b c", "d"))
        (batch,) = bench.loop.take_batches()

    assert (batch.rows, batch.real_tokens, batch.padded_tokens) == (2, 4, 6)
    assert batch.predicted_ms == pytest.approx(COMPANY_PAYS.predict_ms(2, 3))
    assert bench.loop.take_batches() == []


async def test_a_run_is_announced_with_its_items_before_it_begins_and_after_it_has_ended():
    bench = Bench(SumsTokens(on_run=lambda _: seen.append(list(bench.announced))))
    seen: list[list[Started | Ended | Pieces]] = []
    async with running(bench):
        ids = bench.submit("a. b", "c d e")
        await bench.answers(*ids)

    started = Started(1, ids, COMPANY_PAYS.predict_ms(3, 3))
    assert seen == [[started]]
    assert bench.announced == [started, Ended(1)]


async def test_runs_of_a_batch_that_is_split_are_announced_each_for_itself():
    async with running(Bench(BreaksOnWord("bad"))) as bench:
        bad, fine = bench.submit("bad", "fine")
        await bench.replies.of(bad, fine)

    runs = [m.items for m in bench.announced if isinstance(m, Started)]
    assert sorted(runs) == [[bad], [bad, fine], [fine]]
    assert [m.run for m in bench.announced if isinstance(m, Ended)] == [1, 2, 3]


@dataclass(frozen=True)
class SaysHow(RowPerSentence):
    """Each row's setting is its own sentence; rows are grouped by their first letter."""

    def prepare(self, text, parameters, tokenizer):
        prepared = super().prepare(text, parameters, tokenizer)
        sentences = (sentence.strip() for sentence in text.split("."))
        return replace(prepared, row_settings=tuple(filter(None, sentences)))


class GroupsByLetter(SumsTokens):
    """Remembers the settings of each batch; refuses those of the letter x."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: list[list[str]] = []

    def group_of(self, settings):
        return settings[:1]

    def run(self, rows, settings=()):
        self.settings.append(list(settings))
        if any(setting.startswith("x") for setting in settings):
            raise InvalidRequest("inputs do not fit the model together")
        return super().run(rows)


async def test_each_row_may_have_settings_of_its_own(monkeypatch):
    monkeypatch.setitem(TASKS, "embed:v1", SaysHow("embed"))
    runtime = GroupsByLetter()
    async with running(Bench(runtime)) as bench:
        (reply,) = await bench.answers(*bench.submit("a1. b1 b2. a2"))

    assert sorted(sorted(batch) for batch in runtime.settings) == [["a1", "a2"], ["b1 b2"]]
    assert reply.value == bench.expected("embed", "a1. b1 b2. a2")


async def test_a_row_that_the_runtime_refuses_tells_its_caller_alone_why(monkeypatch):
    monkeypatch.setitem(TASKS, "embed:v1", SaysHow("embed"))
    async with running(Bench(GroupsByLetter())) as bench:
        wrong, fine, too = bench.submit("x1", "a1", "a2")
        reply, *_ = await bench.replies.of(wrong, fine, too)

    assert reply == ItemFailed(wrong, "invalid_request", "inputs do not fit the model together")
    assert {bench.replies.code_of(item) for item in (fine, too)} == {"ok"}


class Scrambles(SumsTokens):
    """Two streams whose batches end in either order, as the seed says."""

    def __init__(self, seed: int) -> None:
        self._source = random.Random(seed)
        super().__init__(2, lambda _: self._dawdle())

    def _dawdle(self) -> None:
        for _ in range(self._source.randrange(3000)):
            pass


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["embed", "classify", "summarize"]),
            st.lists(st.integers(1, 5), max_size=6),  # words of each sentence
            st.sampled_from(["keep", "keep", "keep", "cancel", "refuse"]),
            st.integers(0, 4),  # turns of the event loop before the next item
        ),
        min_size=1,
        max_size=15,
    ),
    st.integers(0, 2**16),
)
def test_every_answer_is_its_own_items_however_work_interleaves(plan, seed):
    asyncio.run(_interleave(plan, seed))


async def _interleave(plan: Sequence[tuple[str, list[int], str, int]], seed: int) -> None:
    words = iter(range(10_000))
    async with running(Bench(Scrambles(seed), rows=3)) as bench:
        kept: dict[int, list[object]] = {}
        refused, cancelled = set(), set()
        for task, sentences, fate, turns in plan:
            text = ". ".join(" ".join(f"w{next(words)}" for _ in range(n)) for n in sentences)
            (item,) = bench.submit(f"refuse {text}" if fate == "refuse" else text, task=task)
            for _ in range(turns):
                await asyncio.sleep(0)
            if fate == "cancel":
                bench.loop.cancel([item])
                cancelled.add(item)
            elif fate == "refuse":
                refused.add(item)
            else:
                kept[item] = bench.expected(task, text)
        await bench.replies.of(*kept, *refused)
        await settle_tasks()

        for reply in await bench.answers(*kept):
            assert reply.value == kept[reply.id]
        assert {bench.replies.code_of(item) for item in refused} <= {"input_too_long"}
        assert bench.replies.by_id.keys() <= kept.keys() | refused | cancelled
        await until(lambda: bench.loop.running == 0)
        assert bench.loop.waiting == 0
        assert not bench.loop._pending, "something is kept of an item that is over"


def test_the_word_tokenizer_gives_every_word_an_id_of_its_own():
    """The tests above tell rows apart by their sums; that needs distinct ids."""
    assert WordTokenizer().encode(["a b a", "c"]) == [[1, 2, 1], [3]]


async def test_the_backlog_is_what_waits_at_the_predicted_pace_and_unknown_before_any_batch():
    async with running(Bench(WaitsAtTheGate(), rows=1)) as bench:
        assert bench.loop.backlog_ms is None
        bench.open_gate()
        await bench.answers(*bench.submit("one two"))
        assert isinstance(bench.runtime, WaitsAtTheGate)
        bench.runtime.gate.clear()
        bench.submit("runs")
        await bench.computing()
        bench.submit("waits here", "and here")
        await until(lambda: bench.loop.waiting == 2)
        pace = COMPANY_PAYS.predict_ms(1, 2) / 2

        assert bench.loop.backlog_ms == pytest.approx(4 * pace, rel=0.2)
