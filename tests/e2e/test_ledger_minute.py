"""The hour of benchmarks/ledger_hour.py as a minute: a kill of the server, one of a worker, and the
ledger has what clients saw."""

from benchmarks.ledger_hour import Hour, relive

MINUTE = Hour(seconds=40.0, rate=1.0, speed=8.0, kills=1, worker_kills=1)


async def test_after_kills_the_ledger_has_to_the_token_what_clients_saw(tmp_path):
    found = await relive(tmp_path, MINUTE)
    assert found["broken_rules"] == [], found
    assert found["servers_killed"] == 1
    assert found["tokens_of_those_who_stay"]["least"] > 300, "hardly anything was sure"
