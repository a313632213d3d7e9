"""What is owed: every accepted item from its acceptance to its one outcome, across workers.

No process, clock or future: `Desk` and the supervisor bring those, so that a state machine can
try every order of events. An item is

    held ------> sent -----> settled          by answer, deadline, caller gone, or version failed
     ^  suspect -> on trial ---'
     |     |          |
     '-----+----------'                       when the worker dies

held: no worker takes it yet. suspect: it was running when a worker died (or nothing was known to
run, or it is the second worker to die with it inside). Suspects are tried in groups, each with
nothing else in the worker; nothing else is sent meanwhile. A group whose worker lives has its
answers; one whose worker dies is tried again in smaller groups. Who is alone when it dies again is
refused as poison: it takes nobody with it.

A streamed item of which a piece was told cannot be run again: it fails when its worker dies.

A death from outside (deaths.py) makes no suspects and repeats a trial: who ran goes to the next
worker with everything else, up to MOST_OUTSIDE times, and MOST_CUT_SHORT more on trial; then such a
death counts like any other.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from app.core.errors import (
    Cancelled,
    DeadlineExceeded,
    PoisonInput,
    ServingError,
    WorkerLost,
    from_code,
)
from app.core.types import Answer, Done, Failed, Outcome, Piece, Timings, Usage
from app.workers.messages import ItemDone, ItemFailed, Used, WireItem

log = structlog.get_logger()

PARTS = 4  # of a group that died; docs/faults.md says why not 2 or 32
MOST_OUTSIDE = 3  # an item may end its process in the way that people do
MOST_CUT_SHORT = 4  # trials, in that way
BROKE_OFF = "the worker stopped while it wrote the answer; ask again"
MOST_TRIALS = 2  # alone, of an item that no worker was known to run when it died


OnPiece = Callable[[Piece], None]
OnUsed = Callable[[Usage], None]


class Taker(Protocol):
    """A worker that has loaded."""

    def submit(self, items: list[WireItem]) -> None: ...

    def cancel(self, ids: list[int]) -> None: ...


@dataclass(slots=True)
class Owed:
    """An accepted item. settle: told its outcome, once. on_piece: what it becomes, in pieces.
    on_used: its tokens so far, while it is streamed."""

    item: WireItem
    deadline: float
    settle: Callable[[Outcome], None]
    on_piece: OnPiece | None = None
    on_used: OnUsed | None = None
    has_begun: bool = False  # a piece was told
    is_sent: bool = False
    deaths: int = 0  # of workers that had it
    blamed: int = 0  # of those, while it ran, before it was on trial
    outside: int = 0  # of those, from outside while it ran
    trials: int = 0  # alone


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a death says of the worker. by_trial: suspects were on trial, which explains it.
    explained: crashes before it that a convicted item explains."""

    by_trial: bool = False
    explained: int = 0


class Ledger:
    """Decides what is sent when, and that each item gets exactly one outcome."""

    def __init__(self) -> None:
        self._owed: dict[int, Owed] = {}
        self._held: dict[int, None] = {}  # ids in the order of their arrival
        self._suspects: deque[Sequence[int]] = deque()  # groups; some may not be owed any more
        self._on_trial: set[int] = set()  # who left is in it until the worker runs nothing
        self._worker: Taker | None = None

    def __len__(self) -> int:
        return len(self._owed)

    def owes(self, version: str) -> bool:
        return any(owed.item.version == version for owed in self._owed.values())

    def accept(self, owed: Owed, now: float) -> None:
        self._owed[owed.item.id] = owed
        self._held[owed.item.id] = None
        self._send(now)

    def attach(self, worker: Taker, now: float) -> None:
        """It takes items from now on, first what an earlier one left behind."""
        self._worker = worker
        self._send(now)

    def detach(self) -> None:
        """The worker is about to be ended: nothing more is sent to it."""
        self._worker = None

    def wrote(self, item_id: int, piece: Piece) -> None:
        """A piece of an item that is streamed."""
        owed = self._owed.get(item_id)
        if owed is not None and owed.on_piece is not None:
            owed.has_begun = True
            owed.on_piece(piece)

    def used(self, used: Used) -> None:
        """By an item that is streamed; by the worker that runs it now, should it be the second."""
        owed = self._owed.get(used.id)
        if owed is not None and owed.on_used is not None:
            owed.on_used(Usage(used.input_tokens, used.output_tokens))

    def lost(self, inside: Collection[int], *, from_outside: bool = False) -> Verdict:
        """The worker died; inside: what it was running. from_outside: nobody is to blame."""
        verdict = self._sort_out(inside, from_outside=from_outside)
        for owed in [owed for owed in self._owed.values() if owed.has_begun]:
            self._settle(owed.item.id, Failed(WorkerLost(BROKE_OFF)))
        return verdict

    def _sort_out(self, inside: Collection[int], *, from_outside: bool) -> Verdict:
        """Who is tried, who goes to the next worker, and who is refused."""
        self._worker = None
        trial, self._on_trial = self._on_trial, set()
        sent = [owed for owed in self._owed.values() if owed.is_sent]
        running = set(inside) or trial or {owed.item.id for owed in sent}
        for owed in sent:
            owed.is_sent = False
            if from_outside and owed.item.id in running:
                owed.outside += 1
            owed.deaths += not from_outside
        if from_outside:
            running = {i for i in running if i in self._owed and self._is_worn_out(i, trial)}
        if not trial:
            self._suspect(sent, running)
            return Verdict()
        if from_outside and not running:
            self._try_again(sent)
            return Verdict(by_trial=True)
        if len(sent) == 1 and running == {sent[0].item.id}:
            return self._judge(sent[0], was_running=bool(inside))
        self._try_later([owed for owed in sent if owed.item.id not in running], parts=1)
        self._try_later([owed for owed in sent if owed.item.id in running])
        return Verdict(by_trial=True)

    def _is_worn_out(self, item_id: int, trial: Collection[int]) -> bool:
        """It was inside at so many deaths from outside that it may have caused them.

        Those that made it a suspect are no proof, and a few in a row may still be chance.
        """
        most = MOST_OUTSIDE + (MOST_CUT_SHORT if item_id in trial else 0)
        return self._owed[item_id].outside >= most

    def _suspect(self, sent: Sequence[Owed], running: Collection[int]) -> None:
        """Nobody was on trial: who ran is tried, who waited goes to the next worker once."""
        suspects = [owed for owed in sent if owed.item.id in running]
        for owed in suspects:
            owed.blamed += max(1, owed.outside)
        others = [owed for owed in sent if owed.item.id not in running]
        back = {owed.item.id: None for owed in others if owed.deaths <= 1}
        self._held = back | self._held
        self._try_later([owed for owed in others if owed.deaths > 1], parts=1)
        self._try_later(suspects)

    def _try_again(self, group: Sequence[Owed]) -> None:
        """Their trial was cut short: before all others."""
        self._suspects.appendleft([owed.item.id for owed in group])

    def _judge(self, owed: Owed, *, was_running: bool) -> Verdict:
        """It was alone."""
        owed.trials += 1
        if not was_running and owed.trials < MOST_TRIALS:
            self._try_later([owed])
            return Verdict(by_trial=True)
        log.error("poison_input", version=owed.item.version, request_id=owed.item.request_id)
        self._settle(owed.item.id, Failed(PoisonInput()))
        return Verdict(by_trial=True, explained=owed.blamed)

    def _try_later(self, suspects: Sequence[Owed], parts: int = PARTS) -> None:
        """After all others: those that live soon show that the worker is well."""
        size = -(-len(suspects) // parts)
        for at in range(0, len(suspects), size or 1):
            self._suspects.append([owed.item.id for owed in suspects[at : at + size]])

    def answered(self, reply: ItemDone | ItemFailed, now: float) -> None:
        """Of an item that is not owed any more: nothing happens."""
        self._settle(reply.id, _outcome(reply))
        self._end_trial_of({reply.id}, now)

    def idle(self, now: float) -> None:
        """The worker runs nothing: for those whose callers have left, the trial is over."""
        self._end_trial_of(self._on_trial - self._owed.keys(), now)

    def _end_trial_of(self, ids: set[int], now: float) -> None:
        if self._on_trial and ids:
            self._on_trial -= ids
            self._send(now)

    def leave(self, item_id: int) -> None:
        """The caller is gone."""
        self._withdraw(item_id, Cancelled())

    def expire(self, item_id: int) -> None:
        """The deadline has come."""
        self._withdraw(item_id, DeadlineExceeded())

    def fail(self, error_of: Callable[[str], ServingError | None]) -> None:
        """Everything of the versions for which there is an error fails with it."""
        for owed in list(self._owed.values()):
            error = error_of(owed.item.version)
            if error is not None:
                self._withdraw(owed.item.id, error)

    def _send(self, now: float) -> None:
        """The next suspects with nobody beside them, or else all that is held."""
        if self._worker is None or self._on_trial:
            return
        chosen: list[int] = []
        while self._suspects and not chosen:
            chosen = self._in_time(self._suspects.popleft(), now)
            self._on_trial = set(chosen)
        if not chosen:
            chosen = self._in_time(self._held, now)
            self._held.clear()
        if chosen:
            for item_id in chosen:
                self._owed[item_id].is_sent = True
            self._worker.submit([_with_time_left(self._owed[item_id], now) for item_id in chosen])

    def _in_time(self, ids: Iterable[int], now: float) -> list[int]:
        """Those that are still owed. Whose deadline has passed is told so."""
        owed = [self._owed[item_id] for item_id in ids if item_id in self._owed]
        for late in [each for each in owed if each.deadline <= now]:
            self.expire(late.item.id)
        return [each.item.id for each in owed if each.deadline > now]

    def _withdraw(self, item_id: int, error: ServingError) -> None:
        owed = self._owed.get(item_id)
        if owed is None:
            return
        if owed.is_sent and self._worker is not None:
            self._worker.cancel([item_id])
        self._settle(item_id, Failed(error))

    def _settle(self, item_id: int, outcome: Outcome) -> None:
        owed = self._owed.pop(item_id, None)
        if owed is not None:
            self._held.pop(item_id, None)
            owed.settle(outcome)


def _with_time_left(owed: Owed, now: float) -> WireItem:
    return msgspec.structs.replace(owed.item, timeout_ms=(owed.deadline - now) * 1000)


def _outcome(reply: ItemDone | ItemFailed) -> Outcome:
    if isinstance(reply, ItemFailed):
        return Failed(from_code(reply.code, reply.message))
    usage = Usage(reply.input_tokens, reply.output_tokens)
    answer = Answer(reply.value, reply.metadata, usage)
    return Done(answer, Timings(reply.queue_ms, reply.compute_ms))
