"""The worker's loop for models that another server answers for.

The way of an item: `submit` translates it -> it waits for its turn in fair order, while as many
are out as may be -> asked, its pieces told as they come -> the task makes the answer -> `reply`.
Whoever leaves has his connection closed. Beside that the other server is asked now and then whether
it serves, and at once when it could not be reached.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from app.core.clock import Clock
from app.core.errors import DeadlineExceeded, ServingError
from app.core.types import Answer, Piece
from app.core.upstream import DONE, Call
from app.runtimes.base import RemoteRuntime
from app.runtimes.upstream_refusals import REFUSED_KEY, KeyRefused, Unreachable
from app.scheduling.engine import Sequence as Waiting
from app.scheduling.engine import StepScheduler
from app.tasks.remote import Reader, RemoteTask
from app.workers.key_doubt import KeyDoubt
from app.workers.messages import (
    BatchRan,
    Ended,
    Health,
    Pieces,
    Started,
    Used,
    WireItem,
    unpack_inputs,
)
from app.workers.replies import AnnounceRemote, Reply, done, failed

log = structlog.get_logger()

BYTES_PER_TOKEN = 4  # about; shares of callers are by tokens, and only the other server knows them
USUAL_TOKENS = 256  # of an answer whose length nobody limits
ANY_TOKENS = 2**62  # it has its own bound
RECOVERY_S = 2.0  # how often it is asked, at most, while it does not serve


@dataclass(slots=True)
class Pending:
    """An item between its arrival and its answer."""

    item: WireItem
    call: Call
    reader: Reader
    arrived: float
    deadline: float
    started: float = 0.0
    told: int = 0  # characters of the pieces so far
    told_tokens: int = 0


class ForwardingLoop:
    """Owns what waits for one other server, and what is out to it."""

    def __init__(
        self,
        *,
        runtime: RemoteRuntime,
        tasks: Mapping[str, RemoteTask],
        reply: Reply,
        announce: AnnounceRemote,
        clock: Clock,
        outage: str = "",
    ) -> None:
        """outage: what the server was told of it when the worker had loaded."""
        self._runtime = runtime
        self._tasks = tasks
        self._reply = reply
        self._announce = announce
        self._clock = clock
        self._outage = outage
        self._scheduler = StepScheduler(runtime.options.max_concurrent, ANY_TOKENS)
        self._pending: dict[int, Pending] = {}
        self._wake = asyncio.Event()
        self._doubt = asyncio.Event()
        self._key_doubt = KeyDoubt(runtime.options.health_interval_s)
        self._batches: list[BatchRan] = []

    def submit(self, items: Iterable[WireItem]) -> None:
        for item in items:
            try:
                self._enqueue(item)
            except ServingError as refused:
                self._reply([failed(item.id, refused)])
            except Exception:
                log.exception("prepare_failed", version=item.version, request_id=item.request_id)
                self._reply([failed(item.id, ServingError())])
        self._wake.set()

    def cancel(self, ids: Iterable[int]) -> None:
        for item_id in ids:
            if self._pending.pop(item_id, None) is not None:
                self._scheduler.cancel(item_id)
                self._wake.set()

    def take_batches(self) -> list[BatchRan]:
        """What was answered since the last call, each by itself."""
        batches, self._batches = self._batches, []
        return batches

    @property
    def waiting(self) -> int:
        return self._scheduler.waiting

    @property
    def running(self) -> int:
        return self._scheduler.running

    @property
    def backlog_ms(self) -> float | None:
        """How fast another server is, and for whom else it works, nobody here knows."""
        return None

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_health())
                await self._send_who_may(tasks)
        finally:
            await self._runtime.close()

    def _enqueue(self, item: WireItem) -> None:
        given = item.text if item.inputs is None else unpack_inputs(item.inputs)
        task = self._tasks[item.version]
        call, reader = task.prepare(given, item.parameters, stream=item.stream)
        now = self._clock.now()
        deadline = now + item.timeout_ms / 1000
        self._pending[item.id] = Pending(item, call, reader, now, deadline)
        tokens = _about_tokens(item)
        self._scheduler.add(Waiting(item.id, tokens, now, deadline, item.priority, item.caller))

    async def _send_who_may(self, tasks: asyncio.TaskGroup) -> None:
        asking: dict[int, asyncio.Task[None]] = {}
        while True:
            plan = self._scheduler.plan(self._clock.now())
            for item_id in plan.leave:
                if (left := asking.pop(item_id, None)) is not None:
                    left.cancel()
            for item_id in plan.expired:
                self._settle(item_id, DeadlineExceeded())
            for sequence in plan.join:
                task = tasks.create_task(self._ask(self._pending[sequence.item_id]))
                asking[sequence.item_id] = task
            self._wake.clear()  # safe: no await since the scheduler was looked at
            await self._wake.wait()
            asking = {item_id: task for item_id, task in asking.items() if not task.done()}

    async def _ask(self, pending: Pending) -> None:
        item_id = pending.item.id
        pending.started = self._clock.now()
        self._announce(Started(item_id, [item_id], 0.0))  # how long it takes, only the end tells
        try:
            outcome = await self._outcome(pending)
        finally:
            self._announce(Ended(item_id))
            self._scheduler.apply([item_id])
            self._wake.set()
        self._settle(item_id, outcome)

    async def _outcome(self, pending: Pending) -> Answer | ServingError:
        left_s = pending.deadline - self._clock.now()
        try:
            async with asyncio.timeout(left_s):
                answer = await self._answer(pending, left_s)
        except TimeoutError:
            return DeadlineExceeded()
        except ServingError as error:
            self._note_failure(pending, error)
            return error
        except Exception:
            item = pending.item
            log.exception("forward_failed", version=item.version, request_id=item.request_id)
            return ServingError()
        self._key_doubt.end()
        return answer

    async def _answer(self, pending: Pending, left_s: float) -> Answer:
        call, reader, request_id = pending.call, pending.reader, pending.item.request_id
        if not call.streams:
            return reader.whole(await self._runtime.whole(call, left_s, request_id))
        is_complete = False
        async with aclosing(self._runtime.events(call, left_s, request_id)) as events:
            async for event in events:
                if event == DONE:
                    is_complete = True
                else:
                    self._tell(pending, *reader.take(event))
        answer = reader.end(is_complete=is_complete)
        rest = max(0, answer.usage.output_tokens - pending.told_tokens)
        self._tell(pending, answer.value[pending.told :], rest)
        return answer

    def _tell(self, pending: Pending, text: str, tokens: int) -> None:
        if text and pending.item.id in self._pending:
            pending.told += len(text)
            pending.told_tokens += tokens
            used = pending.reader.used()
            told = Used(pending.item.id, used.input_tokens, used.output_tokens)
            self._announce(Pieces([(pending.item.id, Piece(text, tokens))], [told]))

    def _settle(self, item_id: int, outcome: Answer | ServingError) -> None:
        """Nothing is owed to a caller who has left."""
        pending = self._pending.pop(item_id, None)
        if pending is None:
            return
        if isinstance(outcome, ServingError):
            self._reply([failed(item_id, outcome)])
            return
        now = self._clock.now()
        tokens = outcome.usage.input_tokens + outcome.usage.output_tokens
        self._batches.append(BatchRan(1, tokens, tokens, (now - pending.started) * 1000, 0.0))
        times = {"arrived": pending.arrived, "started": pending.started, "finished": now}
        self._reply([done(item_id, outcome, **times)])

    def _note_failure(self, pending: Pending, error: ServingError) -> None:
        item = pending.item
        log.warning(
            "upstream_failed", version=item.version, request_id=item.request_id, error=str(error)
        )
        if isinstance(error, KeyRefused):
            self._key_doubt.refused(self._clock.now())
            self._say(REFUSED_KEY)
        elif isinstance(error, Unreachable):
            self._doubt.set()

    async def _watch_health(self) -> None:
        usual_s = self._runtime.options.health_interval_s
        while True:
            is_away = bool(self._outage) and self._outage != REFUSED_KEY
            pause_s = min(usual_s, RECOVERY_S) if is_away else usual_s
            self._doubt.clear()
            await self._clock.wait(self._doubt, self._clock.now() + pause_s)
            outage = await self._runtime.problem()
            if outage == REFUSED_KEY:
                self._key_doubt.end()
            elif self._key_doubt.lasts(self._clock.now()):
                outage = outage or REFUSED_KEY
            self._say(outage)

    def _say(self, outage: str) -> None:
        if outage != self._outage:
            log.info("upstream_health", outage=outage)
            self._outage = outage
            self._announce(Health(outage))


def _about_tokens(item: WireItem) -> int:
    given = len(item.text) if item.inputs is None else len(item.inputs)
    written = item.parameters.get("max_new_tokens") or USUAL_TOKENS
    count = item.parameters.get("num_return_sequences") or 1
    return given // BYTES_PER_TOKEN + written * count
