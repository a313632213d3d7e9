"""The worker's loop for models that generate: continuous batching, one step for all at a time.

The way of an item: `submit` tokenises it -> it waits in the step scheduler -> joins before some
step -> after its last token the task makes the answer -> `reply`. Between two steps the loop reads
messages, so callers come and go once per token. Of a text that is streamed each step tells what it
added (telling.py). Nothing is done in another thread: a step holds
the interpreter (docs/adr/0004), and a thread that tokenises would wait for several.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from app.core.clock import Clock
from app.core.errors import DeadlineExceeded, InputTooLong, ServingError
from app.core.inference import Generated
from app.core.types import Piece
from app.runtimes.base import StepOutcome, StepRuntime
from app.scheduling.engine import Sequence as Waiting
from app.scheduling.engine import StepScheduler
from app.scheduling.turnover import Turnover
from app.tasks.generate import GenerationPlan, GenerativeTask
from app.workers.lease import LeaseClient
from app.workers.messages import (
    BatchRan,
    Ended,
    ItemDone,
    ItemFailed,
    Pieces,
    Started,
    Used,
    WireItem,
    unpack_inputs,
)
from app.workers.replies import Announce, Reply, done, failed
from app.workers.telling import OpenText, Teller

log = structlog.get_logger()


@dataclass(slots=True)
class Pending:
    """An item between its arrival and its answer. texts: those that are streamed."""

    item: WireItem
    task: GenerativeTask
    arrived: float
    plan: GenerationPlan | None = None
    started: float | None = None
    texts: Sequence[OpenText] = ()
    written: int = 0  # tokens, of one that is streamed


class GeneratingLoop:
    """Owns the step scheduler of one runtime."""

    def __init__(
        self,
        *,
        runtime: StepRuntime,
        tasks: Mapping[str, GenerativeTask],
        scheduler: StepScheduler,
        lease: LeaseClient,
        reply: Reply,
        announce: Announce,
        clock: Clock,
    ) -> None:
        self._runtime = runtime
        self._tasks = tasks
        self._scheduler = scheduler
        self._lease = lease
        self._reply = reply
        self._announce = announce
        self._clock = clock
        self._pending: dict[int, Pending] = {}
        self._wake = asyncio.Event()
        self._batches: list[BatchRan] = []
        self._pieces: list[tuple[int, Piece]] = []  # of the step under way
        self._teller = Teller(runtime)
        self._turnover = Turnover()
        self._freed = 0  # tokens, when it was told last

    def submit(self, items: Iterable[WireItem]) -> None:
        now = self._clock.now()
        for item in items:
            pending = self._pending[item.id] = Pending(item, self._tasks[item.version], now)
            self._enqueue(pending, self._prepare(pending))

    def cancel(self, ids: Iterable[int]) -> None:
        for item_id in ids:
            if self._pending.pop(item_id, None) is not None:
                self._scheduler.cancel(item_id)
                self._wake.set()

    def take_batches(self) -> list[BatchRan]:
        """What ran since the last call."""
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
        """Until all that wait have joined: how long texts become is not known before they are
        written."""
        return self._turnover.ms_until_joined(self._scheduler.waiting_tokens)

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            if not self._scheduler.waiting and not self._scheduler.running:
                self._wake.clear()  # safe: no await since the scheduler was looked at
                await self._wake.wait()
            await self._lease.acquire(self._runtime.threads)
            try:
                self._step()
            finally:
                self._lease.release(self._runtime.threads)
            # Messages are read between steps. And written: the first turn of the loop only hands
            # what was sent to its own queue, which goes out when the turn ends.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _prepare(self, pending: Pending) -> GenerationPlan | ServingError:
        item = pending.item
        try:
            given = item.text if item.inputs is None else unpack_inputs(item.inputs)
            return pending.task.prepare(given, item.parameters, self._runtime.tokenizer)
        except ServingError as refused:
            return refused
        except Exception:
            log.exception("prepare_failed", version=item.version, request_id=item.request_id)
            return ServingError()

    def _enqueue(self, pending: Pending, result: GenerationPlan | ServingError) -> None:
        item_id = pending.item.id
        if isinstance(result, ServingError):
            self._fail([item_id], result)
            return
        pending.plan = result
        deadline = pending.arrived + pending.item.timeout_ms / 1000
        item = pending.item
        waiting = Waiting(
            item_id, result.most_tokens, pending.arrived, deadline, item.priority, item.caller
        )
        if not self._scheduler.add(waiting):
            self._fail([item_id], _too_large(result, self._scheduler.max_tokens))
        self._wake.set()

    def _step(self) -> None:
        now = self._clock.now()
        plan = self._scheduler.plan(now)
        for item_id in plan.leave:
            self._runtime.cancel(item_id)
            self._announce(Ended(item_id))
        self._fail(plan.expired, DeadlineExceeded())
        for sequence in plan.join:
            self._join(sequence.item_id, now)
        running = self._scheduler.running
        if not running:
            return
        try:
            outcome = self._runtime.step()
        except Exception:
            # Which sequence broke the step is unknown and the engine's state is in doubt: the
            # process ends, its callers are told, and a fresh one is started.
            names = sorted({pending.item.request_id for pending in self._pending.values()})
            log.exception("step_failed", running=running, request_ids=names)
            raise
        self._book(outcome, running, (self._clock.now() - now) * 1000)

    def _join(self, item_id: int, now: float) -> None:
        pending = self._pending[item_id]
        pending.started = now
        plan = pending.plan
        if plan is None:
            raise ServingError(f"item {item_id} joined before it was prepared")
        self._announce(Started(item_id, [item_id], 0.0))  # how long it writes, only the end tells
        if pending.item.stream:
            pending.texts = self._teller.open(plan)
        try:
            self._runtime.add(item_id, plan.prompt, plan.sampling)
        except Exception:
            log.exception("prompt_refused", request_id=pending.item.request_id)
            self._announce(Ended(item_id))
            self._scheduler.apply([item_id])
            self._fail([item_id], ServingError())

    def _book(self, outcome: StepOutcome, running: int, ms: float) -> None:
        self._scheduler.apply(outcome.finished)
        for item_id in outcome.finished:
            self._announce(Ended(item_id))
        freed, self._freed = (
            self._scheduler.freed_tokens - self._freed,
            self._scheduler.freed_tokens,
        )
        if self._scheduler.waiting:
            self._turnover.note(freed, ms)
        tokens = outcome.tokens + sum(outcome.read.values())
        self._batches.append(BatchRan(running, tokens, tokens, ms, 0.0))
        used = self._used(outcome)
        self._tell(outcome)
        replies = [
            self._finish(self._pending.pop(item_id), generated)
            for item_id, generated in outcome.finished.items()
            if item_id in self._pending
        ]
        if self._pieces or used:
            self._announce(Pieces(self._pieces, used))
            self._pieces = []
        if replies:
            self._reply(replies)

    def _used(self, outcome: StepOutcome) -> list[Used]:
        """Of all that are streamed and that the step read or wrote, beams aside."""
        used = []
        for item_id in dict.fromkeys((*outcome.read, *outcome.written)):
            pending = self._pending.get(item_id)
            if pending is not None and pending.plan is not None and pending.item.stream:
                written = outcome.written.get(item_id, ())
                pending.written += sum(len(news.token_ids) for news in written)
                used.append(Used(item_id, len(pending.plan.prompt), pending.written))
        return used

    def _tell(self, outcome: StepOutcome) -> None:
        """What the step added to texts that are streamed; of those that ended, `_finish` does."""
        self._pieces += self._teller.tell(
            (item_id, pending.texts, written)
            for item_id, written in outcome.written.items()
            if item_id not in outcome.finished
            and (pending := self._pending.get(item_id)) is not None
            and pending.texts
        )

    def _finish(self, pending: Pending, generated: Sequence[Generated]) -> ItemDone | ItemFailed:
        item, plan = pending.item, pending.plan
        try:
            if plan is None:
                raise ServingError(f"item {item.id} ended before it was prepared")
            answer = pending.task.finish(plan, generated, self._runtime.decode)
            rest = self._teller.end(pending.texts, generated, answer)
            self._pieces += [(item.id, piece) for piece in rest]
        except Exception:
            log.exception("finish_failed", version=item.version, request_id=item.request_id)
            return failed(item.id, ServingError())
        return done(
            item.id,
            answer,
            arrived=pending.arrived,
            started=pending.started,
            finished=self._clock.now(),
        )

    def _fail(self, ids: Iterable[int], error: ServingError) -> None:
        owed = [item_id for item_id in ids if self._pending.pop(item_id, None) is not None]
        if owed:
            self._reply([failed(item_id, error) for item_id in owed])


def _too_large(plan: GenerationPlan, max_tokens: int) -> InputTooLong:
    return InputTooLong(
        f"prompt and continuations need room for {plan.most_tokens} tokens, the model's cache "
        f"holds {max_tokens}; lower max_new_tokens or num_return_sequences"
    )
