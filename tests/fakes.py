"""Stand-ins for unit tests, each named after what it does. No process, socket or sleep."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from app.core.errors import InputTooLong, ModelUnavailable, ServingError
from app.core.inference import Generated, Sampling, TokenIds, Tokenizer, Vectors, Written
from app.core.types import NOBODY, Answer, Asker, Outcome, Usage
from app.models.registry import Deployment
from app.models.spec import Artefact, ModelFile, ModelSpec
from app.runtimes.base import StepOutcome, StreamPlan
from app.scheduling.cpu_lease import CpuLeases, Grant, Order
from app.tasks.base import Prepared
from app.tasks.catalogue import task_kinds
from app.workers.lease import LeaseClient
from app.workers.ledger import OnPiece, OnUsed
from app.workers.messages import AskThreads, ItemDone, ItemFailed, Load, ReturnThreads
from app.workers.status import ServingState, Status
from app.workers.supervisor import Supervisor

ENDLESS = 4000
GUARD_S = 20.0  # a hang becomes a failure; nothing ever waits this long


class FakeClock:
    """Time stands still until a test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._alarms: list[tuple[float, asyncio.Timeout]] = []

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        if until is not None and until <= self._now:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(None) as alarm:
                if until is not None:
                    self._alarms.append((until, alarm))
                await event.wait()
        except TimeoutError:
            pass
        finally:
            self._alarms = [entry for entry in self._alarms if entry[1] is not alarm]

    @property
    def next_alarm(self) -> float | None:
        return min((until for until, _ in self._alarms), default=None)

    def move(self, seconds: float) -> None:
        self.tick(seconds)
        for until, alarm in self._alarms:
            if until <= self._now and not alarm.expired():
                alarm.reschedule(asyncio.get_running_loop().time())

    def tick(self, seconds: float) -> None:
        """Move without waking anybody; may be called by any thread."""
        self._now += seconds

    async def advance(self, seconds: float) -> None:
        self.move(seconds)
        await settle_tasks()


async def settle_tasks() -> None:
    """Let every task that can run without a thread's help, run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; other tasks and threads run meanwhile."""
    async with asyncio.timeout(GUARD_S):
        while not condition():
            await asyncio.sleep(0)


class Runnable(Protocol):
    async def run(self) -> None: ...


@asynccontextmanager
async def served_by(work: Runnable) -> AsyncIterator[None]:
    """A worker's loop runs meanwhile; if it ends by itself, so does the test, with its error."""
    task = asyncio.create_task(work.run())
    try:
        async with asyncio.timeout(GUARD_S) as guard:

            def give_up(_: asyncio.Task[None]) -> None:
                guard.reschedule(0.0)

            task.add_done_callback(give_up)
            try:
                yield
            finally:
                task.remove_done_callback(give_up)
    except TimeoutError:
        if task.done():
            task.result()
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class WordTokenizer:
    """One token per word, numbered as they are first met."""

    def __init__(self, max_tokens: int = 64) -> None:
        self.max_tokens = max_tokens
        self._ids: dict[str, int] = {}
        self._words: list[str] = []
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        with self._lock:
            return [[self._id(word) for word in text.split()] for text in texts]

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(self._words[token_id - 1] for token_id in token_ids)

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._words.append(word)
            self._ids[word] = len(self._words)
        return self._ids[word]


class SumsTokens:
    """One-shot runtime: each row's vector is (sum of its ids, its length). Remembers batches.

    on_run is called in the stream's thread before the batch is computed.
    """

    def __init__(self, streams: int = 1, on_run: Callable[[int], None] | None = None) -> None:
        self.tokenizer: Tokenizer = WordTokenizer()
        self.plan = StreamPlan(streams, 1)
        self.batches: list[list[TokenIds]] = []
        self._on_run = on_run

    def group_of(self, settings: Any) -> Hashable:
        return None

    def probe(self, rows: Sequence[TokenIds]) -> None:
        self.run(rows)

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        self.batches.append(list(rows))
        if self._on_run is not None:
            self._on_run(len(self.batches))
        return np.array([[sum(row), len(row)] for row in rows], dtype=np.float32)


class WaitsAtTheGate(SumsTokens):
    """Computes nothing before `gate` is set."""

    def __init__(self, streams: int = 1) -> None:
        self.gate = threading.Event()
        super().__init__(streams, lambda _: self._pass())

    def _pass(self) -> None:
        if not self.gate.wait(GUARD_S):
            raise TimeoutError("the test never opened the gate")


class BreaksOnWord(SumsTokens):
    """Raises for a whole batch when one of its rows holds the word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        (self._word,) = self.tokenizer.encode([word])[0]

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        vectors = super().run(rows)
        if any(self._word in row for row in rows):
            raise RuntimeError("the engine choked")
        return vectors


class LosesARow(SumsTokens):
    """Returns one vector too few when a batch has several rows."""

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        vectors = super().run(rows)
        return vectors[:-1] if len(rows) > 1 else vectors


@dataclass(frozen=True)
class RowPerSentence:
    """One-shot task: a row per sentence; answers (task's name, the rows' sums).

    The words `refuse`, `choke` and `stumble` make it fail: ours and foreign in prepare, foreign
    in finish. A text of dots only has no rows.
    """

    name: str

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        if "refuse" in text:
            raise InputTooLong("text is longer than this test likes")
        if "choke" in text:
            raise KeyError("a bug in the task")
        sentences = [sentence for sentence in text.split(".") if sentence.strip()]
        rows = tuple(tokenizer.encode(sentences))
        return Prepared(rows, sum(map(len, rows)), text)

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        if "stumble" in prepared.state:
            raise ZeroDivisionError("a bug in the task")
        sums = [float(vector[0]) for vector in outputs]
        return Answer([self.name, *sums], {"rows": len(sums)}, Usage(prepared.input_tokens))


@dataclass
class CountsUp:
    """Generating runtime: continues a prompt with last id + 1, + 2... one token per step.

    Who asks for ENDLESS tokens runs until he is stopped.

    on_step is called inside each step with its number, before tokens are made.
    """

    tokenizer: Any = field(default_factory=WordTokenizer)
    threads: int = 1
    max_running_tokens: int = 100_000
    on_step: Callable[[int], None] = lambda _: None
    joined: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    steps: list[set[int]] = field(default_factory=list)
    _made: dict[int, tuple[TokenIds, Sampling, list[int]]] = field(default_factory=dict)

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        self.joined.append(sequence_id)
        self._made[sequence_id] = (prompt, sampling, [])

    def cancel(self, sequence_id: int) -> None:
        del self._made[sequence_id]
        self.cancelled.append(sequence_id)

    def step(self) -> StepOutcome:
        self.steps.append(set(self._made))
        self.on_step(len(self.steps))
        finished: dict[int, tuple[Generated, ...]] = {}
        read = {i: len(prompt) for i, (prompt, _, made) in self._made.items() if not made}
        for sequence_id, (prompt, sampling, made) in self._made.items():
            made.append(prompt[-1] + len(made) + 1)
            if len(made) == sampling.max_new_tokens and len(made) < ENDLESS:
                one = Generated(tuple(made), "length")
                finished[sequence_id] = (one,) * sampling.sequences
        tokens = len(self._made)
        written = {
            i: [Written((made[-1],), index) for index in range(sampling.sequences)]
            for i, (_, sampling, made) in self._made.items()
        }
        for sequence_id in finished:
            del self._made[sequence_id]
        return StepOutcome(finished, tokens, read, written)


class RefusesWord(CountsUp):
    """`add` raises for a prompt that ends in the word; nothing is kept of it."""

    word = "poison"

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        if prompt[-1] == self.tokenizer.encode([self.word])[0][0]:
            raise RuntimeError("the engine does not take this")
        super().add(sequence_id, prompt, sampling)


class Replies:
    """What a worker's loop answered, by item; an item answered twice is a failure."""

    def __init__(self) -> None:
        self.by_id: dict[int, ItemDone | ItemFailed] = {}
        self.calls = 0

    def __call__(self, items: Sequence[ItemDone | ItemFailed]) -> None:
        self.calls += 1
        for item in items:
            assert item.id not in self.by_id, f"item {item.id} was answered twice"
            self.by_id[item.id] = item

    async def of(self, *ids: int) -> list[ItemDone | ItemFailed]:
        await until(lambda: self.by_id.keys() >= set(ids))
        return [self.by_id[item_id] for item_id in ids]

    def code_of(self, item_id: int) -> str:
        reply = self.by_id[item_id]
        return reply.code if isinstance(reply, ItemFailed) else "ok"


def lone_lease(budget: int = 8) -> LeaseClient:
    """The lease of a worker that shares its threads with nobody; orders arrive at once."""
    book = CpuLeases(budget)

    def send(message: AskThreads | ReturnThreads) -> None:
        if isinstance(message, AskThreads):
            carry_out(book.ask("lone", message.threads))
        else:
            carry_out(book.give_back("lone", message.threads))

    def carry_out(orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Grant):
                client.on_grant(order.threads)
            else:
                client.on_recall()

    client = LeaseClient(send)
    return client


class AnswersWhenTold:
    """A supervisor without a process: `waits` holds what was submitted, for the test to answer."""

    def __init__(self, name: str = "worker") -> None:
        self.name = name
        self.status = Status(ServingState.READY)
        self.refused: dict[str, str] = {}
        self.task_options: dict[str, dict[str, Any]] = {}
        self.submitted: list[tuple[str, str, dict[str, Any], float]] = []
        self.inputs: list[Mapping[str, Any]] = []
        self.askers: list[Asker] = []
        self.waits: list[asyncio.Future[Outcome]] = []
        self.pieces: list[OnPiece | None] = []
        self.used: list[OnUsed | None] = []
        self.refusal: ServingError | None = None
        self.asked_for: set[str] = set()

    @property
    def unanswered(self) -> int:
        return sum(not wait.done() for wait in self.waits)

    def state_of(self, version: str) -> tuple[ServingState, str]:
        if version in self.refused:
            return ServingState.FAILED, self.refused[version]
        return self.status.state, self.status.reason

    def was_asked_for(self, version: str) -> bool:
        return version in self.asked_for

    def closed(self, version: str) -> ModelUnavailable | None:
        return ModelUnavailable("closed") if self.status.state.is_by_request else None

    def submit(
        self,
        version: str,
        text: str,
        parameters: dict[str, Any],
        timeout_ms: float,
        inputs: Mapping[str, Any] | None = None,
        asker: Asker = NOBODY,
        on_piece: OnPiece | None = None,
        on_used: OnUsed | None = None,
    ) -> asyncio.Future[Outcome]:
        if self.refusal is not None:
            raise self.refusal
        self.inputs += [] if inputs is None else [inputs]
        self.pieces.append(on_piece)
        self.used.append(on_used)
        self.askers.append(asker)
        self.submitted.append((version, text, parameters, timeout_ms))
        self.waits.append(asyncio.get_running_loop().create_future())
        return self.waits[-1]


def a_spec(key: str, task: str = "embed", *, artefact: str = "minilm", **fields: Any) -> ModelSpec:
    """A version by its `name:version`."""
    name, _, version = key.partition(":")
    file = ModelFile("model", f"file://{artefact}.bin", "0" * 64, 1000)
    served = Artefact(artefact, (file,), license="MIT")
    return ModelSpec(name, version, task, served, "runtime", task_kinds(task)[0], **fields)


def a_deployment(spec: ModelSpec, supervisor: AnswersWhenTold | None = None) -> Deployment:
    return Deployment(spec, cast(Supervisor, supervisor or AnswersWhenTold()))


def a_load(**fields: Any) -> Load:
    """What a worker is told to load; nothing is measured, and little is logged."""
    usual: dict[str, Any] = {
        "files": {},
        "kind": "vectors",
        "options": {},
        "cpu_threads": 2,
        "max_batch_size": 8,
        "batch_timeout_ms": 0.0,
        "calibration_path": "",
        "prepared_path": "",
        "log_format": "json",
        "log_level": "error",
    }
    return Load(**usual | fields)
