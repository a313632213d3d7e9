"""Loops and lives beside answering: failures are told, a stop loses nothing within its grace."""

import asyncio

import pytest

from app.core.background import Background
from app.core.errors import StorageUnavailable


class Steps:
    """Fails as told, then goes well; each step asks for the next at once."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.wake = asyncio.Event()
        self.went_well = asyncio.Event()

    async def step(self) -> None:
        self.wake.set()
        if self._errors:
            raise self._errors.pop(0)
        self.went_well.set()


async def test_a_step_that_fails_comes_again():
    steps = Steps(OSError("disk"), StorageUnavailable("away"), ValueError("a defect"))
    background = Background("things")
    background.repeat(steps.step, 60.0, steps.wake)

    await steps.went_well.wait()
    await background.stop(0.0, lambda: None)


async def test_lives_that_end_within_the_grace_are_not_ended():
    background, may_end = Background("things"), asyncio.Event()
    ended: list[str] = []

    async def life() -> None:
        await may_end.wait()
        ended.append("by itself")

    background.begin(life())
    stopping = asyncio.create_task(background.stop(60.0, lambda: ended.append("told to")))
    may_end.set()
    await stopping

    assert ended == ["by itself", "told to"]
    assert not background.lives


async def test_lives_that_last_longer_are_told_to_end():
    background, told = Background("things"), asyncio.Event()

    async def life() -> None:
        await told.wait()

    background.begin(life())
    await background.stop(0.0, told.set)

    assert told.is_set()
    assert not background.lives


async def test_lives_that_do_not_end_are_cancelled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.core.background.ENDS_S", 0.0)
    background, never = Background("things"), asyncio.Event()
    cancelled: list[bool] = []

    async def life() -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    background.begin(life())
    await asyncio.sleep(0)
    await background.stop(0.0, lambda: None)

    assert cancelled == [True]


async def test_the_grace_counts_from_the_first_call():
    background = Background("things")

    assert not background.is_leaving
    assert background.begin_stop()
    assert not background.begin_stop()
    assert background.is_leaving
