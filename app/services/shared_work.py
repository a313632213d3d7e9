"""Equal work is computed once: who asks for what is already being computed waits for that.

Every caller is a waiter with an outcome and a deadline of its own; the work itself belongs to
nobody. It ends with its outcome, or when the last waiter has left.

    first caller    -> work begins under its deadline; the only one that takes a permit
    equal callers   -> wait for the same work; whose time is up, or who leaves, leaves alone
    work is done    -> everybody gets the outcome
    work ran out of -> those with more time go on together, as new work under the longest of their
    time               deadlines
"""

import asyncio
import hashlib
from collections.abc import Callable, Hashable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from app.core.clock import Clock
from app.core.errors import Cancelled, DeadlineExceeded, InvariantBroken, ServingError
from app.core.types import Done, Failed, Outcome, Timings
from app.workers.messages import pack_inputs

Wait = asyncio.Future[Outcome]
Submit = Callable[[float], Wait]
"""Begins the work with so many milliseconds left. Raises ServingError when it is refused."""


class Alarm(Protocol):
    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], Alarm]
"""Calls back after so many seconds, unless the alarm is cancelled before."""


def call_later(seconds: float, callback: Callable[[], None]) -> Alarm:
    """`Later` of the running event loop."""
    return asyncio.get_running_loop().call_later(seconds, callback)


def key_of_work(
    version: str, parameters: Mapping[str, Any], text: str, inputs: Mapping[str, Any] | None
) -> bytes:
    """Equal for equal requests only; parameters are complete and in their declared order.

    Raises InvalidRequest for inputs that no worker could be sent.
    """
    packed = None if inputs is None else pack_inputs(inputs)
    whole = msgspec.msgpack.encode((version, parameters, text, packed))
    return hashlib.sha256(whole).digest()


@dataclass(slots=True, eq=False)
class _Waiter:
    """One caller. submit, context: to begin the work as this caller, should it become his."""

    outcome: Wait
    since: float
    deadline: float
    submit: Submit
    context: Context
    work: "_Work"
    alarm: Alarm | None = None


@dataclass(slots=True, eq=False)
class _Work:
    """What is being computed. owner: under whose deadline, though he may have left."""

    key: Hashable
    outcome: Wait
    deadline: float
    waiters: dict[_Waiter, None]  # in the order of their coming
    owner: _Waiter | None = None


class SharedWork:
    """All work in flight that may be shared, by key."""

    def __init__(self, clock: Clock, later: Later = call_later) -> None:
        self._clock = clock
        self._later = later
        self._in_flight: dict[Hashable, _Work] = {}

    def is_in_flight(self, key: Hashable) -> bool:
        return key in self._in_flight

    def join(self, key: Hashable, timeout_ms: float, submit: Submit) -> Wait:
        """The caller's own outcome to be; cancelling it is leaving.

        Raises what `submit` raises where the work has to begin.
        """
        now = self._clock.now()
        deadline = now + timeout_ms / 1000
        work = self._in_flight.get(key)
        is_owner = work is None
        if work is None:
            work = self._begin(key, submit(timeout_ms), deadline)
        outcome: Wait = asyncio.get_running_loop().create_future()
        waiter = _Waiter(outcome, now, deadline, submit, copy_context(), work)
        work.waiters[waiter] = None
        if is_owner:
            work.owner = waiter  # his time is the work's, which its worker watches
        else:
            waiter.alarm = self._later(timeout_ms / 1000, lambda: _expire(waiter))
        outcome.add_done_callback(lambda _: self._on_left(waiter))
        return outcome

    def _begin(self, key: Hashable, outcome: Wait, deadline: float) -> _Work:
        work = self._in_flight[key] = _Work(key, outcome, deadline, {})
        outcome.add_done_callback(lambda _: self._on_end(work))
        return work

    def _on_left(self, waiter: _Waiter) -> None:
        """He has his outcome, or has been cancelled."""
        if waiter.alarm is not None:
            waiter.alarm.cancel()
        work = waiter.work
        work.waiters.pop(waiter, None)
        if not work.waiters and not work.outcome.done():
            self._forget(work)
            work.outcome.cancel()

    def _on_end(self, work: _Work) -> None:
        self._forget(work)
        outcome = _outcome_of(work.outcome)
        going_on: list[_Waiter] = []
        for waiter in work.waiters:
            if waiter.outcome.done():
                continue
            if _has_more_time(waiter, work, outcome):
                going_on.append(waiter)
            else:
                self._tell(waiter, outcome)
        if going_on:
            self._go_on(work.key, going_on)

    def _go_on(self, key: Hashable, waiters: list[_Waiter]) -> None:
        owner = max(waiters, key=lambda waiter: waiter.deadline)
        left_ms = (owner.deadline - self._clock.now()) * 1000
        try:
            if left_ms <= 0:
                raise DeadlineExceeded
            # In the owner's context, so that the worker logs the request that it works for.
            outcome = owner.context.run(owner.submit, left_ms)
        except ServingError as refused:
            for waiter in waiters:
                self._tell(waiter, Failed(refused))
            return
        work = self._begin(key, outcome, owner.deadline)
        work.owner = owner
        work.waiters = dict.fromkeys(waiters)
        for waiter in waiters:
            waiter.work = work

    def _forget(self, work: _Work) -> None:
        if self._in_flight.get(work.key) is work:
            del self._in_flight[work.key]

    def _tell(self, waiter: _Waiter, outcome: Outcome) -> None:
        """The model ran for the owner; the others have only waited."""
        if isinstance(outcome, Done) and waiter is not waiter.work.owner:
            waited_ms = (self._clock.now() - waiter.since) * 1000
            outcome = replace(outcome, timings=Timings(queue_ms=waited_ms))
        waiter.outcome.set_result(outcome)


def _expire(waiter: _Waiter) -> None:
    if not waiter.outcome.done():
        waiter.outcome.set_result(Failed(DeadlineExceeded()))


def _outcome_of(ended: Wait) -> Outcome:
    if ended.cancelled():
        return Failed(Cancelled())
    error = ended.exception()
    if error is None:
        return ended.result()
    broken = InvariantBroken("a worker's outcome was an exception")
    broken.__cause__ = error
    return Failed(broken)


def _has_more_time(waiter: _Waiter, work: _Work, outcome: Outcome) -> bool:
    """Whether the work ended for a reason that was its owner's, and is not this waiter's."""
    if not isinstance(outcome, Failed) or waiter is work.owner:
        return False
    match outcome.error:
        case DeadlineExceeded():
            return waiter.deadline > work.deadline
        case Cancelled():
            return True
    return False
