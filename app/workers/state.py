"""The life of a worker process, as a table."""

from collections.abc import Mapping
from enum import StrEnum

from app.core.errors import InvariantBroken


class WorkerState(StrEnum):
    """Where a worker is. The names appear in `/models`."""

    STARTING = "starting"  #: process started, weights not read yet
    READY = "ready"  #: takes items
    STOPPING = "stopping"  #: asked to end
    DEAD = "dead"  #: the process has ended


MOVES: Mapping[WorkerState, frozenset[WorkerState]] = {
    WorkerState.STARTING: frozenset({WorkerState.READY, WorkerState.STOPPING, WorkerState.DEAD}),
    WorkerState.READY: frozenset({WorkerState.STOPPING, WorkerState.DEAD}),
    WorkerState.STOPPING: frozenset({WorkerState.STOPPING, WorkerState.DEAD}),
    WorkerState.DEAD: frozenset(),
}


def move(current: WorkerState, to: WorkerState) -> WorkerState:
    """The new state. Raises InvariantBroken naming both states when the table forbids it."""
    if to not in MOVES[current]:
        raise InvariantBroken(f"a worker cannot go from {current} to {to}")
    return to
