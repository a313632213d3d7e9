"""The life of a worker process."""

import pytest

from app.core.errors import InvariantBroken
from app.workers.state import MOVES, WorkerState, move


def test_an_ordinary_life_is_allowed():
    state = WorkerState.STARTING
    for step in (WorkerState.READY, WorkerState.STOPPING, WorkerState.DEAD):
        state = move(state, step)

    assert state is WorkerState.DEAD


@pytest.mark.parametrize("state", [s for s in WorkerState if s is not WorkerState.DEAD])
def test_death_comes_in_every_state(state):
    assert move(state, WorkerState.DEAD) is WorkerState.DEAD


@pytest.mark.parametrize("to", WorkerState)
def test_nobody_comes_back_from_death(to):
    with pytest.raises(InvariantBroken, match=f"from dead to {to}"):
        move(WorkerState.DEAD, to)


def test_a_worker_that_stops_never_gets_ready():
    """It would be given items that it will not answer."""
    with pytest.raises(InvariantBroken):
        move(WorkerState.STOPPING, WorkerState.READY)


def test_stopping_twice_is_no_mistake():
    assert move(WorkerState.STOPPING, WorkerState.STOPPING) is WorkerState.STOPPING


def test_the_table_names_every_state():
    assert set(MOVES) == set(WorkerState)
