"""An hour of mixed traffic, compressed, while servers and workers are killed: is the ledger right?

    python -m benchmarks.ledger_hour                                       (make ledger)
    python -m benchmarks.ledger_hour --database postgres --database-crashes 4
    python -m benchmarks.ledger_hour --seconds 60 --rate 2 --speed 6 --kills 1 --worker-kills 1

Poisson arrivals of `--seconds` simulated seconds are replayed `--speed` times as fast against real
servers, one after the other over the same data: four keys, all models, one and many inputs,
streams, jobs, batches, errors, clients that leave. Servers and workers are killed (SIGKILL) at
random times, and PostgreSQL is crashed (`pg_ctl stop -m immediate`). In the end `GET /usage` and
`cli usage` are compared, to the token, by key and model, with what the clients saw;
benchmarks/ledger_judge.py says what may differ, and by how much. Prints a JSON report; exits 1
when an account is outside its span.
"""

import argparse
import asyncio
import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx

from benchmarks.chaos_jobs import database
from benchmarks.harness import warn_when_busy
from benchmarks.ledger_clients import Clients, Server
from benchmarks.ledger_judge import Account, Book, Kills, Tokens
from benchmarks.ledger_traffic import Call, Traffic
from tests.e2e.serving import ServerProcess, cli
from tests.postgres import PostgresServer

KEYS, LEAVER = ("shop", "search", "night"), "leaver"
JUDGE = "judge"  # whose usage is nobody's concern
SCOPES = [word for scope in ("infer", "jobs", "admin") for word in ("--scope", scope)]
MOST_AT_ONCE = 48
WRITTEN_S = 1.5  # until what was answered is in the database
SETTINGS: dict[str, Any] = {"BATCH_MAX_INPUTS": 8, "ALLOW_ANONYMOUS": "false"}


@dataclass(frozen=True, slots=True)
class Hour:
    """seconds, rate: simulated; speed: simulated seconds in one of ours."""

    seconds: float = 3600.0
    rate: float = 1.0
    speed: float = 12.0
    kills: int = 6
    worker_kills: int = 6
    database_crashes: int = 0  # of PostgreSQL
    seed: int = 1


class Servers:
    """One after the other, over the same data."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = settings
        self._process: ServerProcess | None = None
        self._number = 0
        self.kills = Kills()
        self.now: Server | None = None
        self.is_up = asyncio.Event()

    async def start(self) -> Server:
        """Returns when models serve."""
        self._process = await asyncio.to_thread(ServerProcess, self._folder, **self._settings)
        await asyncio.to_thread(self._process.until_ready)
        self._number += 1
        self.now = Server(self._number, self._process.url)
        self.is_up.set()
        return self.now

    async def kill(self) -> None:
        process, self.now, self._process = self._process, None, None
        self.is_up.clear()
        if process is not None:
            self.kills.at[self._number] = time.time()
            process.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)

    def kill_worker(self, chance: random.Random) -> None:
        if self._process is not None:
            os.kill(chance.choice(list(self._process.worker_pids().values())), signal.SIGKILL)

    async def end(self) -> None:
        process, self.now, self._process = self._process, None, None
        if process is not None:
            await asyncio.to_thread(process.end)


async def replay(
    calls: Iterable[Call], clients: Clients, speed: float, is_up: asyncio.Event
) -> None:
    """Each at its time, or as soon as there are fewer than `MOST_AT_ONCE`; time stands still while
    there is no server."""
    started, room = time.monotonic(), asyncio.Semaphore(MOST_AT_ONCE)
    asking: set[asyncio.Task[None]] = set()

    async def ask(call: Call) -> None:
        try:
            await clients.make(call)
        finally:
            room.release()

    for call in calls:
        await asyncio.sleep(max(0.0, started + call.at / speed - time.monotonic()))
        paused = time.monotonic()
        await is_up.wait()
        started += time.monotonic() - paused
        await room.acquire()
        task = asyncio.create_task(ask(call))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)


async def strike_at_random(servers: Servers, hour: Hour, postgres: PostgresServer | None) -> None:
    """Each blow somewhere in its own part of the time, one after the other."""
    chance, lasts_s = random.Random(hour.seed), hour.seconds / hour.speed

    async def crash_database() -> None:
        if postgres is not None:
            await asyncio.to_thread(postgres.stop, "immediate")
            await asyncio.to_thread(postgres.start)
            await asyncio.sleep(WRITTEN_S)  # a kill before that may cost more than a second

    async def kill_server() -> None:
        await servers.kill()
        await servers.start()

    async def kill_worker() -> None:
        servers.kill_worker(chance)

    counts = {
        kill_server: hour.kills,
        kill_worker: hour.worker_kills,
        crash_database: hour.database_crashes,
    }
    blows = [(at, blow) for blow, n in counts.items() for at in _moments(chance, n, lasts_s)]
    started = time.monotonic()
    for at, blow in sorted(blows, key=itemgetter(0)):
        await asyncio.sleep(max(0.0, started + at - time.monotonic()))
        await blow()


def _moments(chance: random.Random, count: int, lasts_s: float) -> list[float]:
    part = lasts_s / max(1, count)
    return [part * (number + chance.uniform(0.2, 0.9)) for number in range(count)]


def ledger_of(rows: Iterable[Mapping[str, Any]]) -> dict[Account, Tokens]:
    return {
        (row["key"], row["model"]): Tokens(int(row["input_tokens"]), int(row["output_tokens"]))
        for row in rows
        if row["key"] != JUDGE
    }


async def made_keys(server: Server, judge: str) -> dict[str, str]:
    """Secrets by name."""
    headers = {"Authorization": f"Bearer {judge}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        made = [await http.post("/admin/keys", json={"name": name}) for name in (*KEYS, LEAVER)]
    return {each.json()["name"]: each.json()["secret"] for each in made}


async def usage_over_http(server: Server, secret: str) -> dict[Account, Tokens]:
    async with httpx.AsyncClient(base_url=server.url) as http:
        headers = {"Authorization": f"Bearer {secret}"}
        answer = await http.get("/usage", params={"group_by": "key,model"}, headers=headers)
    return ledger_of(answer.raise_for_status().json()["usage"])


def usage_of_the_command_line(folder: Path, settings: Mapping[str, Any]) -> dict[Account, Tokens]:
    said = cli(folder, "usage", "--by", "key,model", "--csv", **settings)
    return ledger_of(csv.DictReader(said.splitlines()))


async def relive(
    folder: Path, hour: Hour, postgres: PostgresServer | None = None
) -> dict[str, Any]:
    """The report. folder: empty. postgres: without one, SQLite in the folder."""
    settings = SETTINGS | ({} if postgres is None else {"DATABASE_URL": postgres.url()})
    judge = cli(folder, "keys", "create", JUDGE, *SCOPES, **settings)
    servers, book = Servers(folder, settings), Book()
    first = await servers.start()
    secrets = await made_keys(first, judge)
    clients = Clients({**secrets, JUDGE: judge}, lambda: servers.now)
    started = time.monotonic()
    try:
        calls = Traffic(KEYS, LEAVER, hour.rate, hour.seed).calls(hour.seconds)
        await asyncio.gather(
            replay(calls, clients, hour.speed, servers.is_up),
            strike_at_random(servers, hour, postgres),
        )
        lasted_s = time.monotonic() - started
        last = servers.now
        if last is None:
            raise RuntimeError("no server is left")
        await clients.settle(book, servers.kills, last)
        await asyncio.sleep(WRITTEN_S)
        ledger = await usage_over_http(last, judge)
        said = usage_of_the_command_line(folder, settings)
        await clients.judge_unseen(JUDGE, book, last)
    finally:
        await clients.close()
        await servers.end()
    broken = book.broken(ledger)
    if said != ledger:
        broken.append(f"the command line says {said}, /usage {ledger}")
    broken += [told for told in clients.seen.outcomes if told.endswith((": 401", ": 500"))]
    return report(hour, lasted_s, servers.kills, clients, book, ledger, broken)


def report(
    hour: Hour,
    lasted_s: float,
    kills: Kills,
    clients: Clients,
    book: Book,
    ledger: Mapping[Account, Tokens],
    broken: Sequence[str],
) -> dict[str, Any]:
    accounts = book.shown(ledger)
    return {
        "simulated_s": hour.seconds,
        "lasted_s": round(lasted_s, 1),
        "servers_killed": len(kills.at),
        "workers_killed": hour.worker_kills,
        "database_crashed": hour.database_crashes,
        "outcomes": dict(sorted(clients.seen.outcomes.items())),
        "answers_never_seen": len(clients.seen.unseen),
        "tokens_of_those_who_stay": _sums(accounts, is_leaver=False),
        "tokens_of_those_who_leave": _sums(accounts, is_leaver=True),
        "accounts": accounts,
        "broken_rules": list(broken),
    }


def _sums(accounts: Mapping[str, Mapping[str, int]], *, is_leaver: bool) -> dict[str, int]:
    chosen = [a for name, a in accounts.items() if name.startswith(f"{LEAVER}/") is is_leaver]
    return {name: sum(each[name] for each in chosen) for name in ("least", "ledger", "most")}


def main() -> int:
    usual = Hour()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("seconds", "rate", "speed"):
        parser.add_argument(f"--{name}", type=float, default=getattr(usual, name))
    for name in ("kills", "worker-kills", "database-crashes", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name.replace("-", "_")))
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    given = vars(parser.parse_args())
    kind = given.pop("database")
    warn_when_busy()
    with tempfile.TemporaryDirectory() as folder, database(kind) as postgres:
        hour = Hour(**given)
        found = {"database": kind, **asyncio.run(relive(Path(folder), hour, postgres))}
    print(json.dumps(found, indent=2))
    return 1 if found["broken_rules"] else 0


if __name__ == "__main__":
    sys.exit(main())
