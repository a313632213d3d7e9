"""The ledger on both databases: everything once, whatever fails between."""

import asyncio
from datetime import date

import pytest
from sqlalchemy import text

from app.core.errors import StorageUnavailable
from app.keys.audit import Actor
from app.keys.key import Terms
from app.keys.keyring import Keyring
from app.keys.service import KeyService
from app.keys.quotas import DAY_S, day_of
from app.keys.usage import UsageLedger
from app.keys.usage_rows import GROUPS, Period
from app.services.metering import Use

NOON = 20_000.5 * DAY_S
TODAY = day_of(NOON)
ALWAYS = Period(date(2000, 1, 1), date(2100, 1, 1))


class Wall:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


class Fragile:
    """A database that fails before or after its commits when it is told to."""

    def __init__(self, database) -> None:
        self.database = database
        self.fails = ""
        self.writes = 0

    async def write(self, work):
        self.writes += 1
        if self.fails == "before":
            raise StorageUnavailable
        if self.fails == "strangely":
            raise ValueError("not foreseen")
        result = await self.database.write(work)
        if self.fails == "after":
            raise StorageUnavailable
        return result

    async def read(self, work):
        return await self.database.read(work)


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def fragile(database):
    return Fragile(database)


@pytest.fixture
def ledger(fragile, wall):
    return UsageLedger(fragile, wall=wall)


def use(**more) -> Use:
    return Use(requests=1, items=1, input_tokens=3, cost_nanos=7, compute_ms=0.5, **more)


async def test_what_is_added_is_summed_by_key_model_version_and_day(ledger, wall):
    for _ in range(3):
        ledger.add("k1", "sentiment", "v1", use())
    ledger.add("k1", "sentiment", "v2", use(output_tokens=9))
    ledger.add("", "generator", "v1", use(failures=1))
    wall.now += DAY_S
    ledger.add("k1", "sentiment", "v1", use(cached_items=1))
    rows = await ledger.totals(ALWAYS, GROUPS)
    assert [tuple(row[name] for name in (*GROUPS[1:], "items")) for row in rows] == [
        ("generator", "v1", TODAY, 1),
        ("sentiment", "v1", TODAY, 3),
        ("sentiment", "v1", day_of(wall.now), 1),
        ("sentiment", "v2", TODAY, 1),
    ]
    (mine,) = await ledger.totals(ALWAYS, ("model",), key_id="k1")
    assert mine["input_tokens"] == 15 and mine["output_tokens"] == 9
    assert mine["cost_nanos"] == 35 and mine["compute_ms"] == 2.5 and mine["cached_items"] == 1
    (first_day,) = await ledger.totals(Period(TODAY, TODAY), ())
    assert first_day["items"] == 5 and first_day["failures"] == 1


async def test_sums_grow_with_every_write(ledger):
    for _ in range(3):
        ledger.add("k", "m", "v1", use())
        await ledger.flush()
    (row,) = await ledger.totals(ALWAYS, ("key",), "k")
    assert row["requests"] == 3


@pytest.mark.parametrize("fails", ["before", "after"])
async def test_a_write_that_failed_is_added_once(ledger, fragile, fails):
    ledger.add("k", "m", "v1", use())
    fragile.fails = fails
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            await ledger.flush()
        ledger.add("k", "m", "v1", use())
    fragile.fails = ""
    (row,) = await ledger.totals(ALWAYS, ("model",))
    assert row["requests"] == 4 and row["input_tokens"] == 12


async def test_many_additions_are_one_write(ledger, fragile):
    for n in range(1000):
        ledger.add(f"k{n % 10}", "m", "v1", use())
    await ledger.flush()
    assert fragile.writes == 1
    await ledger.flush()
    assert fragile.writes == 1


@pytest.mark.parametrize("fails", ["before", "strangely"])
async def test_what_was_added_is_written_by_itself(ledger, fragile, monkeypatch, fails):
    monkeypatch.setattr("app.keys.usage.WRITE_S", 0.01)
    running = asyncio.create_task(ledger.run())
    fragile.fails = fails
    ledger.add("k", "m", "v1", use())
    async with asyncio.timeout(10):
        while fragile.writes < 2:
            await asyncio.sleep(0)
    fragile.fails = ""
    query = text("SELECT sum(requests) FROM usage")
    while await fragile.read(lambda c: c.scalar(query)) != 1:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])


async def test_two_servers_add_to_the_same_sums(database, ledger, wall):
    other = UsageLedger(database, wall=wall)
    ledger.add("k", "m", "v1", use())
    other.add("k", "m", "v1", use())
    await asyncio.gather(ledger.flush(), other.flush())
    (row,) = await ledger.totals(ALWAYS, ("model",))
    assert row["requests"] == 2


async def test_keys_have_their_names(database, ledger):
    service = KeyService(database, Keyring(database, 0))
    key, _ = await service.create(Actor("me"), Terms("shop"))
    ledger.add(key.id, "m", "v1", use())
    ledger.add("", "m", "v1", use())
    rows = await ledger.totals(ALWAYS, ("key", "model"))
    assert [row["key"] for row in rows] == ["", "shop"]
