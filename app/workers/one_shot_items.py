"""Items of the one-shot loop: what their task makes of them before and after the forward passes.

`prepare_all` and `finish_all` run off the loop, and touch nothing that the loop changes meanwhile.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.core.errors import ServingError
from app.core.inference import Tokenizer
from app.scheduling.queue import Row
from app.tasks.base import OneShotTask, Prepared
from app.workers.messages import ItemDone, ItemFailed, WireItem, unpack_inputs
from app.workers.replies import done, failed

log = structlog.get_logger()


@dataclass(slots=True)
class Pending:
    """An item between its arrival and its answer."""

    item: WireItem
    task: OneShotTask
    arrived: float
    prepared: Prepared = Prepared((), 0)
    outputs: list[Any] = field(default_factory=list)
    rows_left: int = 0
    started: float | None = None
    finished: float | None = None

    def expect(self, prepared: Prepared) -> None:
        """An output for each row."""
        self.prepared = prepared
        self.rows_left = len(prepared.rows)
        self.outputs = [None] * len(prepared.rows)

    def rows(self, group_of: Callable[[Any], Hashable]) -> list[Row]:
        """For the queue."""
        deadline = self.arrived + self.item.timeout_ms / 1000
        settings_of = self.prepared.settings_of
        return [
            Row(
                self.item.id,
                index,
                len(row),
                self.arrived,
                deadline,
                group_of(settings_of(index)),
                self.item.priority,
                self.item.caller,
            )
            for index, row in enumerate(self.prepared.rows)
        ]

    def start(self, index: int, now: float) -> tuple[Any, Any]:
        """The row and its settings. The first row that runs starts the item."""
        self.started = now if self.started is None else self.started
        return self.prepared.rows[index], self.prepared.settings_of(index)

    def take(self, index: int, output: Any, now: float) -> bool:
        """Whether it was the last one."""
        self.outputs[index] = output
        self.rows_left -= 1
        if not self.rows_left:
            self.finished = now
        return not self.rows_left


def prepare_all(group: Sequence[Pending], tokenizer: Tokenizer) -> list[Prepared | ServingError]:
    return [_prepare(pending, tokenizer) for pending in group]


def _prepare(pending: Pending, tokenizer: Tokenizer) -> Prepared | ServingError:
    item = pending.item
    try:
        given = item.text if item.inputs is None else unpack_inputs(item.inputs)
        return pending.task.prepare(given, item.parameters, tokenizer)
    except ServingError as refused:
        return refused
    except Exception:
        log.exception("prepare_failed", version=item.version, request_id=item.request_id)
        return ServingError()


def finish_all(group: Sequence[Pending]) -> list[ItemDone | ItemFailed]:
    return [_finish(pending) for pending in group]


def _finish(pending: Pending) -> ItemDone | ItemFailed:
    item = pending.item
    try:
        answer = pending.task.finish(pending.prepared, pending.outputs, item.parameters)
    except ServingError as refused:
        return failed(item.id, refused)
    except Exception:
        log.exception("finish_failed", version=item.version, request_id=item.request_id)
        return failed(item.id, ServingError())
    return done(
        item.id,
        answer,
        arrived=pending.arrived,
        started=pending.started,
        finished=pending.finished,
    )
