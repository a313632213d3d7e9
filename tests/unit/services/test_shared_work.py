"""Equal work is computed once, and each who waits for it is his own."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import Cancelled, DeadlineExceeded, InvalidRequest, Overloaded, WorkerLost
from app.core.types import Answer, Done, Failed, Outcome, Timings
from app.services.shared_work import SharedWork, key_of_work
from tests.fakes import FakeClock, settle_tasks

FAR_S = 1e6


@dataclass(eq=False)
class Alarm:
    at: float
    ring: Callable[[], None]
    is_off: bool = False

    def cancel(self) -> None:
        self.is_off = True


@dataclass(eq=False)
class Computation:
    key: str
    deadline: float
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Bench:
    """Work that a test ends, or that its own deadline does, as a worker's handle would end it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.shared = SharedWork(self.clock, self.later)
        self.begun: list[Computation] = []
        self.alarms: list[Alarm] = []
        self.refusal: Exception | None = None

    def later(self, seconds: float, ring: Callable[[], None]) -> Alarm:
        self.alarms.append(Alarm(self.clock.now() + seconds, ring))
        return self.alarms[-1]

    def join(self, timeout_s: float, key: str = "a") -> asyncio.Future[Outcome]:
        return self.shared.join(
            key.encode(), timeout_s * 1000, lambda left_ms: self._begin(key, left_ms)
        )

    def _begin(self, key: str, left_ms: float) -> asyncio.Future[Outcome]:
        if self.refusal is not None:
            raise self.refusal
        begun = Computation(key, self.clock.now() + left_ms / 1000)
        self.begun.append(begun)
        self.later(left_ms / 1000, lambda: self.end(begun, Failed(DeadlineExceeded())))
        return begun.outcome

    @staticmethod
    def end(begun: Computation, outcome: Outcome) -> None:
        if not begun.outcome.done():
            begun.outcome.set_result(outcome)

    @property
    def running(self) -> list[Computation]:
        return [begun for begun in self.begun if not begun.outcome.done()]

    async def tick(self, seconds: float) -> None:
        """Alarms ring one by one, each at its time."""
        until = self.clock.now() + seconds
        while due := [a for a in self.alarms if a.at <= until and not a.is_off]:
            first = min(due, key=lambda alarm: alarm.at)
            self.alarms.remove(first)
            self.clock.tick(max(0.0, first.at - self.clock.now()))
            first.ring()
            await settle_tasks()
        self.clock.tick(until - self.clock.now())


@pytest.fixture
async def bench():
    return Bench()


def says(value: str) -> Done:
    return Done(Answer(value), Timings(1.0, 2.0))


def code_of(outcome: asyncio.Future[Outcome]) -> str:
    if not outcome.done():
        return "waits"
    if outcome.cancelled():
        return "left"
    result = outcome.result()
    return result.error.code if isinstance(result, Failed) else "ok"


async def test_equal_requests_in_flight_are_computed_once(bench):
    first, second, other = bench.join(5), bench.join(5), bench.join(5, "b")
    for begun in bench.running:
        bench.end(begun, says(begun.key))
    await settle_tasks()

    assert [begun.key for begun in bench.begun] == ["a", "b"]
    assert [wait.result().answer.value for wait in (first, second, other)] == ["a", "a", "b"]


async def test_what_is_asked_after_the_end_is_computed_again(bench):
    bench.join(5)
    bench.end(bench.begun[0], says("a"))
    await settle_tasks()
    bench.join(5)

    assert len(bench.begun) == 2


async def test_the_model_ran_for_the_first_and_the_others_only_waited(bench):
    first = bench.join(5)
    await bench.tick(1)
    second = bench.join(5)
    await bench.tick(2)
    bench.end(bench.begun[0], says("a"))
    await settle_tasks()

    assert first.result().timings == Timings(1.0, 2.0)
    assert second.result().timings.queue_ms == pytest.approx(2000)
    assert second.result().timings.compute_ms == 0.0


async def test_who_has_less_time_leaves_alone_at_his_deadline(bench):
    first, second = bench.join(5), bench.join(1)
    await bench.tick(1)
    assert (code_of(first), code_of(second)) == ("waits", "deadline_exceeded")

    bench.end(bench.begun[0], says("a"))
    await settle_tasks()
    assert code_of(first) == "ok"


async def test_those_with_more_time_than_the_first_go_on_together_under_the_longest(bench):
    first, second, third = bench.join(1), bench.join(2), bench.join(5)
    longest = bench.clock.now() + 5
    await bench.tick(1)
    assert [code_of(wait) for wait in (first, second, third)] == [
        "deadline_exceeded",
        "waits",
        "waits",
    ]
    (again,) = bench.running
    assert again.deadline == pytest.approx(longest)

    bench.end(again, says("a"))
    await settle_tasks()
    assert (code_of(second), code_of(third)) == ("ok", "ok")


async def test_the_first_caller_may_leave_while_others_wait(bench):
    first, second = bench.join(5), bench.join(5)
    first.cancel()
    await settle_tasks()
    assert not bench.begun[0].outcome.cancelled()

    bench.end(bench.begun[0], says("a"))
    await settle_tasks()
    assert code_of(second) == "ok"
    assert len(bench.begun) == 1


async def test_the_last_who_leaves_cancels_the_work(bench):
    waits = [bench.join(5), bench.join(1), bench.join(5)]
    waits[0].cancel()
    await bench.tick(1)
    assert not bench.begun[0].outcome.done()
    waits[2].cancel()
    await settle_tasks()

    assert bench.begun[0].outcome.cancelled()
    assert not bench.shared.is_in_flight(b"a")


async def test_who_comes_after_the_last_has_left_begins_anew(bench):
    bench.join(5).cancel()
    await settle_tasks()
    again = bench.join(5)
    bench.end(bench.begun[1], says("a"))
    await settle_tasks()

    assert code_of(again) == "ok"


async def test_work_that_is_cancelled_elsewhere_is_begun_again_for_those_who_wait(bench):
    first, second = bench.join(5), bench.join(5)
    bench.end(bench.begun[0], Failed(Cancelled()))
    await settle_tasks()
    assert (code_of(first), code_of(second)) == ("cancelled", "waits")

    bench.begun[1].outcome.cancel()
    await settle_tasks()
    assert code_of(second) == "cancelled"


async def test_any_other_failure_is_everybodys(bench):
    waits = [bench.join(1), bench.join(5)]
    bench.end(bench.begun[0], Failed(WorkerLost()))
    await settle_tasks()

    assert [code_of(wait) for wait in waits] == ["model_unavailable"] * 2
    assert len(bench.begun) == 1


async def test_an_outcome_that_is_an_exception_is_an_internal_error_and_no_hang(bench):
    wait = bench.join(5)
    bench.begun[0].outcome.set_exception(RuntimeError("a bug"))
    await settle_tasks()

    assert code_of(wait) == "internal"


async def test_a_refusal_is_the_first_callers_and_leaves_nothing_behind(bench):
    bench.refusal = Overloaded("full")
    with pytest.raises(Overloaded):
        bench.join(5)

    assert not bench.shared.is_in_flight(b"a")


async def test_a_refusal_when_going_on_is_told_to_all_who_wait(bench):
    waits = [bench.join(1), bench.join(5), bench.join(5)]
    bench.refusal = Overloaded("full")
    await bench.tick(1)

    assert [code_of(wait) for wait in waits] == ["deadline_exceeded", "overloaded", "overloaded"]


def test_the_key_tells_version_parameters_text_and_tensors_apart():
    whole: tuple[Any, ...] = ("a:v1", {"top_k": None}, "text", {"x": [1, 2]})
    others: list[tuple[Any, ...]] = [
        ("a:v2", *whole[1:]),
        (whole[0], {"top_k": 1}, *whole[2:]),
        (*whole[:2], "text ", whole[3]),
        (*whole[:3], {"x": [1, 2.0]}),
        (*whole[:3], None),
    ]

    assert key_of_work(*whole) == key_of_work("a:v1", {"top_k": None}, "text", {"x": [1, 2]})
    assert len({key_of_work(*request) for request in (whole, *others)}) == 6


def test_tensors_that_no_worker_could_be_sent_are_refused():
    with pytest.raises(InvalidRequest, match="beyond 64 bits"):
        key_of_work("a:v1", {}, "", {"x": [2**70]})


SECONDS = st.integers(1, 6)
INDEX = st.integers(0, 7)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from("ab"), SECONDS),
        st.tuples(st.just("leave"), INDEX),
        st.tuples(st.just("tick"), st.sampled_from([0.5, 1.0, 2.0])),
        st.tuples(st.just("answer"), INDEX),
        st.tuples(st.just("fail"), INDEX, st.sampled_from([WorkerLost, Cancelled])),
    ),
    min_size=8,
    max_size=40,
)


@dataclass(eq=False)
class Asked:
    key: str
    deadline: float
    wait: asyncio.Future[Outcome]
    has_left: bool = False
    ended_at: list[float] = field(default_factory=list)


class History(Bench):
    """Every caller with what he asked for and when he had his outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Asked] = []
        self.withdrawn: set[Computation] = set()

    async def step(self, what: str, *given) -> None:
        if what == "join":
            key, seconds = given
            asked = Asked(key, self.clock.now() + seconds, self.join(seconds, key))
            asked.wait.add_done_callback(lambda _: asked.ended_at.append(self.clock.now()))
            self.asked.append(asked)
        elif what == "leave" and self.waiting:
            leaver = self.waiting[given[0] % len(self.waiting)]
            leaver.has_left = True
            leaver.wait.cancel()
        elif what == "tick":
            await self.tick(given[0])
        elif self.running:
            begun = self.running[given[0] % len(self.running)]
            self.end(begun, says(begun.key) if what == "answer" else Failed(given[1]()))
        await settle_tasks()

    @property
    def waiting(self) -> list[Asked]:
        return [asked for asked in self.asked if not asked.wait.done()]

    def check(self) -> None:
        running = [begun.key for begun in self.running]
        assert sorted(running) == sorted({asked.key for asked in self.waiting})
        withdrawn = {begun for begun in self.begun if begun.outcome.cancelled()}
        for begun in withdrawn - self.withdrawn:
            assert begun.key not in running, "withdrawn though somebody waited for it"
        self.withdrawn = withdrawn
        for asked in self.waiting:
            assert asked.deadline > self.clock.now()
            assert self.shared.is_in_flight(asked.key.encode())


@settings(max_examples=200)
@given(STEPS)
def test_each_caller_gets_one_outcome_of_his_own_in_his_time_and_work_ends_with_the_last(steps):
    async def history() -> None:
        bench = History()
        for step in steps:
            await bench.step(*step)
            bench.check()
        await bench.tick(FAR_S)
        bench.check()
        for asked in bench.asked:
            assert len(asked.ended_at) == 1
            assert asked.has_left == asked.wait.cancelled()
            if asked.has_left:
                continue
            outcome = asked.wait.result()
            if isinstance(outcome, Done):
                assert outcome.answer.value == asked.key
                assert asked.ended_at[0] < asked.deadline
            elif isinstance(outcome.error, DeadlineExceeded):
                assert asked.ended_at[0] == pytest.approx(asked.deadline)

    asyncio.run(history())
