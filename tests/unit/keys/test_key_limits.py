"""How much a key may do, decided without a clock or a database."""

import asyncio
from dataclasses import replace

import pytest

from app.core.errors import QuotaExceeded, RateLimited, StorageUnavailable, TryLater
from app.keys.key import Key, KeyLimits, Terms
from app.keys.limiter import Limiter
from app.keys.limits import KeyMeter
from app.keys.quotas import DAY_S, Quotas, Spent, day_of
from app.services.metering import Use

NOON = 20_666.5 * DAY_S  # 2026-08-01, a Saturday
FULL = Use(requests=1, input_tokens=60, output_tokens=40, cost_nanos=500)


def a_key(**limits) -> Key:
    return Key("key_1", "", 0.0, Terms("app", limits=KeyLimits(**limits)))


class Bench:
    def __init__(self) -> None:
        self.time, self.wall, self.reads, self.is_gone = 1000.0, NOON, 0, False
        self.stored = Quotas(day_of(NOON))
        self.limiter = Limiter(self.spent, now=lambda: self.time, wall=lambda: self.wall)

    async def spent(self, key_id: str) -> Quotas:
        self.reads += 1
        await asyncio.sleep(0)
        if self.is_gone:
            raise StorageUnavailable
        return self.stored

    async def enter(self, key: Key) -> KeyMeter:
        meter = await self.limiter.enter(key)
        assert meter is not None
        return meter

    async def refusal(self, key: Key) -> TryLater:
        with pytest.raises((RateLimited, QuotaExceeded)) as refused:
            await self.limiter.enter(key)
        return refused.value


@pytest.fixture
def bench():
    return Bench()


async def test_a_key_without_limits_has_no_meter(bench):
    assert await bench.limiter.enter(a_key()) is None


async def test_requests_per_minute_are_counted_and_come_back(bench):
    key = a_key(requests_per_minute=2)
    for _ in range(2):
        (await bench.enter(key)).end()
    refused = await bench.refusal(key)
    assert refused.code == "rate_limited" and refused.retry_after_s == 30.0
    assert "2 requests per minute" in str(refused)
    bench.time += 30
    await bench.enter(key)
    assert bench.reads == 0, "no quota, no database"


async def test_a_refused_request_costs_nothing(bench):
    key = a_key(requests_per_minute=1)
    await bench.enter(key)
    for _ in range(5):
        await bench.refusal(key)
    bench.time += 60
    await bench.enter(key)


async def test_tokens_are_paid_when_they_are_known(bench):
    key = a_key(tokens_per_minute=100)
    for _ in range(2):
        await bench.enter(key)
    bench.limiter.charge(key.id, FULL)
    bench.limiter.charge(key.id, FULL)
    refused = await bench.refusal(key)
    assert "100 tokens per minute" in str(refused) and refused.retry_after_s == 60.6
    bench.time += 60.7
    await bench.enter(key)


async def test_so_many_run_at_once_and_no_more(bench):
    key = a_key(concurrent_requests=2)
    first, _ = await bench.enter(key), await bench.enter(key)
    assert "2 requests running" in str(await bench.refusal(key))
    first.end()
    await bench.enter(key)


@pytest.mark.parametrize(
    ("limits", "stored", "named", "wait_days"),
    [
        ({"daily_requests": 5}, Spent(requests=5), "daily_requests", 0.5),
        ({"daily_tokens": 5}, Spent(tokens=5), "daily_tokens", 0.5),
        ({"monthly_requests": 5}, Spent(requests=5), "monthly_requests", 30.5),
        ({"monthly_tokens": 5}, Spent(tokens=6), "monthly_tokens", 30.5),
        ({"monthly_budget_nanos": 5}, Spent(nanos=5), "monthly_budget", 30.5),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_quota_that_the_ledger_says_is_used_up_is_so_at_once(
    bench, limits, stored, named, wait_days
):
    bench.stored = Quotas(day_of(NOON), stored, stored)
    refused = await bench.refusal(a_key(**limits))
    assert isinstance(refused, QuotaExceeded) and named in str(refused)
    assert refused.retry_after_s == wait_days * DAY_S


async def test_a_quota_is_used_up_by_what_is_charged_and_begins_anew(bench):
    key = a_key(daily_tokens=150, monthly_tokens=250)
    await bench.enter(key)
    bench.limiter.charge(key.id, FULL)
    await bench.enter(key)
    bench.limiter.charge(key.id, FULL)
    assert "daily_tokens" in str(await bench.refusal(key))
    bench.wall += DAY_S
    await bench.enter(key)
    bench.limiter.charge(key.id, FULL)
    assert "monthly_tokens" in str(await bench.refusal(key))
    bench.wall += 30 * DAY_S
    await bench.enter(key)


async def test_many_who_come_first_ask_the_ledger_once(bench):
    key = a_key(daily_requests=1000)
    await asyncio.gather(*(bench.enter(key) for _ in range(50)))
    assert bench.reads == 1


async def test_a_key_that_is_read_anew_goes_on_with_its_rates_and_reads_its_quota_again(bench):
    key = a_key(requests_per_minute=1, daily_requests=10)
    await bench.enter(key)
    bench.stored = Quotas(day_of(NOON), Spent(requests=10), Spent(requests=10))
    again = replace(key)
    bench.time += 60
    assert isinstance(await bench.refusal(again), QuotaExceeded)
    assert bench.reads == 2


async def test_what_began_under_other_limits_counts_and_ends_under_the_new_ones(bench):
    """Its end was told to a meter that was gone, so its place was never given back."""
    first = await bench.enter(a_key(concurrent_requests=1))
    key = a_key(concurrent_requests=2)
    await bench.enter(key)
    await bench.refusal(key)
    first.end()
    await bench.enter(key)
    await bench.refusal(key)


async def test_a_rate_that_stays_goes_on_where_another_limit_is_changed(bench):
    await bench.enter(a_key(requests_per_minute=1, concurrent_requests=5))
    refused = await bench.refusal(a_key(requests_per_minute=1, concurrent_requests=9))
    assert "1 requests per minute" in str(refused)


@pytest.mark.parametrize(
    ("limit", "free_at_once"), [(200, 100), (100, 0), (50, 0)], ids=["raised", "same", "lowered"]
)
async def test_a_new_rate_is_in_force_at_once_and_forgives_nothing(bench, limit, free_at_once):
    old = a_key(requests_per_minute=100)
    for _ in range(100):
        await bench.enter(old)
    key = a_key(requests_per_minute=limit)
    for _ in range(free_at_once):
        await bench.enter(key)
    assert f"{limit} requests per minute" in str(await bench.refusal(key))


async def test_a_key_whose_limits_are_all_taken_away_has_no_meter_any_more(bench):
    meter = await bench.enter(a_key(requests_per_minute=1))
    assert await bench.limiter.enter(a_key()) is None
    assert bench.limiter.meter_of("key_1") is None
    meter.end()


async def test_without_the_ledger_known_quotas_go_on_and_unknown_ones_are_refused(bench):
    key = a_key(daily_requests=10)
    await bench.enter(key)
    bench.is_gone = True
    await bench.enter(replace(key))
    with pytest.raises(StorageUnavailable):
        await bench.limiter.enter(replace(key, id="key_2"))
