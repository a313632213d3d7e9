"""What is owed: every accepted item from its acceptance to its one outcome, across workers.

No process, clock or future: `Desk` and the supervisor bring those, so that a state machine can
try every order of events. An item is

    held ------> sent -----> settled          by answer, deadline, caller gone, or version failed
     ^  suspect -> on trial ---'
     |     |          |
     '-----+----------'                       when the worker dies

held: no worker takes it yet. suspect: it was running when a worker died (or nothing was known to
run, or it is the second worker to die with it inside), and is run again with nothing beside it,
so that poison takes nobody with it. On trial: that is happening; nothing else is sent meanwhile.
Whose trial ends with another death is refused as poison.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from app.core.errors import Cancelled, DeadlineExceeded, PoisonInput, ServingError, from_code
from app.core.types import Answer, Done, Failed, Outcome, Timings, Usage
from app.workers.messages import ItemDone, ItemFailed, WireItem

log = structlog.get_logger()

MOST_TRIALS = 2  # of an item that no worker was known to run when it died


class Taker(Protocol):
    """A worker that has loaded."""

    def submit(self, items: list[WireItem]) -> None: ...

    def cancel(self, ids: list[int]) -> None: ...


@dataclass(slots=True)
class Owed:
    """An accepted item. settle: told its outcome, once."""

    item: WireItem
    deadline: float
    settle: Callable[[Outcome], None]
    deaths: int = 0  # of workers that had it
    trials: int = 0


class Ledger:
    """Decides what is sent when, and that each item gets exactly one outcome."""

    def __init__(self) -> None:
        self._owed: dict[int, Owed] = {}
        self._held: dict[int, None] = {}  # ids in the order of their arrival
        self._suspects: dict[int, None] = {}
        self._on_trial: int | None = None
        self._worker: Taker | None = None

    def __len__(self) -> int:
        return len(self._owed)

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

    def lost(self, inside: Collection[int]) -> bool:
        """The worker died; inside: what it was running. Returns whether an item is to blame."""
        self._worker = None
        has_culprit = False
        back: dict[int, None] = {}
        for owed in self._sent():
            owed.deaths += 1
            item_id = owed.item.id
            if item_id == self._on_trial and (item_id in inside or owed.trials >= MOST_TRIALS):
                has_culprit = True
                self._convict(owed)
            elif item_id in inside or not inside or owed.deaths > 1:
                self._suspects[item_id] = None
            else:
                back[item_id] = None
        self._held = back | self._held
        self._on_trial = None
        return has_culprit

    def answered(self, reply: ItemDone | ItemFailed, now: float) -> None:
        """Of an item that is not owed any more: nothing happens."""
        self._settle(reply.id, _outcome(reply))
        if reply.id == self._on_trial:
            self._on_trial = None
            self._send(now)

    def idle(self, now: float) -> None:
        """The worker runs nothing: a trial whose caller has left is over."""
        if self._on_trial is not None and self._on_trial not in self._owed:
            self._on_trial = None
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
        """The next suspect alone, or else all that is held."""
        if self._worker is None or self._on_trial is not None:
            return
        self._drop_late(self._suspects, now)
        self._drop_late(self._held, now)
        if self._suspects:
            chosen = [next(iter(self._suspects))]
            self._on_trial = chosen[0]
            self._owed[chosen[0]].trials += 1
            del self._suspects[chosen[0]]
        else:
            chosen = list(self._held)
            self._held.clear()
        if chosen:
            self._worker.submit([_with_time_left(self._owed[item_id], now) for item_id in chosen])

    def _drop_late(self, ids: Iterable[int], now: float) -> None:
        for item_id in [i for i in ids if self._owed[i].deadline <= now]:
            self.expire(item_id)

    def _sent(self) -> list[Owed]:
        waiting = self._held.keys() | self._suspects.keys()
        return [owed for item_id, owed in self._owed.items() if item_id not in waiting]

    def _convict(self, owed: Owed) -> None:
        item = owed.item
        log.error("poison_input", version=item.version, request_id=item.request_id)
        self._settle(item.id, Failed(PoisonInput()))

    def _withdraw(self, item_id: int, error: ServingError) -> None:
        if item_id not in self._owed:
            return
        was_sent = item_id not in self._held and item_id not in self._suspects
        if was_sent and self._worker is not None:
            self._worker.cancel([item_id])
        self._settle(item_id, Failed(error))

    def _settle(self, item_id: int, outcome: Outcome) -> None:
        owed = self._owed.pop(item_id, None)
        if owed is not None:
            self._held.pop(item_id, None)
            self._suspects.pop(item_id, None)
            owed.settle(outcome)


def _with_time_left(owed: Owed, now: float) -> WireItem:
    return msgspec.structs.replace(owed.item, timeout_ms=(owed.deadline - now) * 1000)


def _outcome(reply: ItemDone | ItemFailed) -> Outcome:
    if isinstance(reply, ItemFailed):
        return Failed(from_code(reply.code, reply.message))
    usage = Usage(reply.input_tokens, reply.output_tokens)
    answer = Answer(reply.value, reply.metadata, usage)
    return Done(answer, Timings(reply.queue_ms, reply.compute_ms))
