"""Servers, and the database under them, are killed while jobs are submitted and run: is one lost?

    python -m benchmarks.chaos_jobs --kills 200                      (make chaos-jobs)
    python -m benchmarks.chaos_jobs --kills 50 --database postgres

Submits jobs, each with an Idempotency-Key, and again what was not acknowledged; each submitter
waits for the oldest of his jobs while `BACKLOG` of them have not ended. Every few moments the
server is killed (SIGKILL) and started anew; on PostgreSQL that is crashed as well (`pg_ctl stop
-m immediate`), every other time. Each job that was acknowledged must end with its own answer, and
in the end still be as it was then; and few may have been begun again: a kill costs no more than
were being run, which is an upper bound of what was computed twice. Prints a JSON report; exits 1
when a rule is broken.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.harness import embedded_catalog, warn_when_busy
from tests.e2e.serving import ServerProcess
from tests.postgres import PostgresServer, running_postgres

MODEL = "sentiment"
SUBMITTERS = 8
BACKLOG = 50
LEAST_LIFE_S, MOST_LIFE_S = 0.5, 10.0
IN_FLIGHT = 8  # jobs that a kill can cost another run (JOB_MAX_INPUTS)
SETTLE_S = 180.0
OPEN = ("queued", "running")
DUPLICATES = 0.01
WORDS = "good bad slow fast warm cold kind rude clean dirty loud quiet".split()
TEXTS = 2000  # different ones
# In one batch of the run: several inputs, so that parts are kept and read again.
MANY, MANY_SHARE = 8, 0.1


@dataclass
class Sent:
    """A job that was acknowledged. texts: what its answer must be to; ended: as it was then."""

    job_id: str
    caller: str
    texts: list[str]
    ended: dict[str, Any] = field(default_factory=dict)


@dataclass
class History:
    sent: list[Sent] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)  # of submissions
    started_s: list[float] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    kills: int = 0
    crashes: int = 0


class Servers:
    """One after the other, over the same database."""

    def __init__(self, folder: Path, history: History, **settings: object) -> None:
        self._folder = folder
        self._history = history
        self._settings = settings
        self.now: ServerProcess | None = None

    async def start(self) -> None:
        """Returns when models serve."""
        started = time.monotonic()
        self.now = await asyncio.to_thread(ServerProcess, self._folder, **self._settings)
        await asyncio.to_thread(self.now.until_ready)
        self._history.started_s.append(time.monotonic() - started)

    def kill(self) -> None:
        server, self.now = self.now, None
        if server is not None:
            server.process.send_signal(signal.SIGKILL)
            server.wait()
            self._history.events += server.events

    async def end(self) -> None:
        server, self.now = self.now, None
        if server is not None:
            await asyncio.to_thread(server.end)
            self._history.events += server.events


class Submitter:
    """Sends jobs without a pause; what was not acknowledged is sent again under its key."""

    def __init__(self, number: int, servers: Servers, history: History, seed: int) -> None:
        self._number = number
        self._servers = servers
        self._history = history
        self._chance = random.Random(f"{seed}-{number}")
        self._caller = f"chaos-{number % 2}"
        self._open: deque[Sent] = deque()

    async def run(self, is_over: asyncio.Event) -> None:
        """Returns when all of its jobs have ended, or `SETTLE_S` after the last kill."""
        count = 0
        async with httpx.AsyncClient(timeout=30) as client:
            while not is_over.is_set():
                count += 1
                await self._submit(client, f"{self._number}-{count}", is_over)
                while len(self._open) >= BACKLOG:
                    await self._see_the_end_of(client, self._open.popleft())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    while self._open:
                        await self._see_the_end_of(client, self._open.popleft())

    async def _see_the_end_of(self, client: httpx.AsyncClient, sent: Sent) -> None:
        """Leaves `ended` empty where there is no such job."""
        while True:
            server = self._servers.now
            if server is None:
                await asyncio.sleep(0.02)
                continue
            try:
                answer = await client.get(
                    f"{server.url}/jobs/{sent.job_id}",
                    params={"wait": 5},
                    headers={"X-Caller-Id": sent.caller},
                )
            except httpx.HTTPError:
                continue
            if answer.status_code == 404:
                return
            if answer.status_code == 200 and answer.json()["state"] not in OPEN:
                sent.ended = answer.json()
                return
            await asyncio.sleep(0.02)

    async def _submit(self, client: httpx.AsyncClient, key: str, is_over: asyncio.Event) -> None:
        count = MANY if self._chance.random() < MANY_SHARE else 1
        texts = self._chance.choices(texts_asked(), k=count)
        bodies = [{"text": text, "model": MODEL} for text in texts]
        body: dict[str, Any] = bodies[0] if count == 1 else {"requests": bodies}
        while not is_over.is_set():
            server = self._servers.now
            if server is None:
                await asyncio.sleep(0.02)
                continue
            try:
                answer = await client.post(
                    f"{server.url}/jobs",
                    json=body,
                    headers={"Idempotency-Key": key, "X-Caller-Id": self._caller},
                )
            except httpx.HTTPError as error:
                self._history.answers[type(error).__name__] += 1
                continue
            self._history.answers[str(answer.status_code)] += 1
            if answer.status_code == 202:
                sent = Sent(answer.json()["id"], self._caller, texts)
                self._history.sent.append(sent)
                self._open.append(sent)
                return
            await asyncio.sleep(0.05)


async def kill_often(
    servers: Servers, history: History, kills: int, postgres: PostgresServer | None, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(kills):
        await asyncio.sleep(chance.uniform(LEAST_LIFE_S, MOST_LIFE_S))
        if postgres is not None and number % 2:
            await asyncio.to_thread(postgres.stop, "immediate")
            await asyncio.to_thread(postgres.start)
            history.crashes += 1
            await asyncio.sleep(chance.uniform(0, 0.5))
        servers.kill()
        history.kills += 1
        await servers.start()


async def kept(server: ServerProcess) -> dict[str, dict[str, Any]]:
    """All jobs of both callers, as the lists have them, by their ids."""
    found: dict[str, dict[str, Any]] = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=90) as client:
        for caller in ("chaos-0", "chaos-1"):
            page: dict[str, Any] = {"next_cursor": None}
            while page["next_cursor"] or "jobs" not in page:
                cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
                answer = await client.get(
                    "/jobs", params={"limit": 100, **cursor}, headers={"X-Caller-Id": caller}
                )
                page = answer.raise_for_status().json()
                found |= {job["id"]: job for job in page["jobs"]}
    return found


def judged(
    history: History, jobs: dict[str, dict[str, Any]], expected: dict[str, str]
) -> list[str]:
    """The rules that were broken. jobs: as they are in the end."""
    broken = []
    for sent in history.sent:
        then, now = sent.ended, jobs.get(sent.job_id)
        if not then or now is None:
            broken.append(f"{sent.job_id} is lost")
        elif then["state"] != "succeeded":
            broken.append(f"{sent.job_id} is {then['state']}: {then['error']}")
        elif _labels(then) != [expected[text] for text in sent.texts]:
            broken.append(f"{sent.job_id} has another's answer")
        elif (now["state"], now["finished_at"]) != (then["state"], then["finished_at"]):
            broken.append(f"{sent.job_id} ended at {then['finished_at']} and {now['finished_at']}")
    ended = Counter(e["job"] for e in history.events if e["event"] == "job_ended")
    broken += [f"{job_id} ended {count} times" for job_id, count in ended.items() if count > 1]
    if len({sent.job_id for sent in history.sent}) < len(history.sent):
        broken.append("two submissions were given one job")
    return broken


def _labels(job: dict[str, Any]) -> list[str]:
    result = job["result"]
    return [each["result"] for each in result.get("results", [result])]


@functools.cache
def texts_asked() -> list[str]:
    chance = random.Random(0)
    return [f"{n}: {' '.join(chance.choices(WORDS, k=12))}" for n in range(TEXTS)]


async def alone(server: ServerProcess) -> dict[str, str]:
    """What the model says to each text when it is asked alone."""
    expected: dict[str, str] = {}
    async with httpx.AsyncClient(base_url=server.url, timeout=90) as client:
        for at in range(0, TEXTS, 100):
            some = texts_asked()[at : at + 100]
            entries = [{"text": text, "model": MODEL} for text in some]
            answer = await client.post("/infer/batch", json={"requests": entries})
            results = answer.json()["results"]
            expected |= {text: each["result"] for text, each in zip(some, results, strict=True)}
    return expected


async def chaos(
    folder: Path, kills: int, seed: int, in_flight: int, postgres: PostgresServer | None
) -> dict[str, Any]:
    history = History()
    settings = {
        "MODEL_CATALOG": _catalog(folder),
        "DEFAULT_MODEL": MODEL,
        "JOB_MAX_INPUTS": in_flight,
    }
    if postgres is not None:
        settings["DATABASE_URL"] = postgres.url()
    servers = Servers(folder, history, **settings)
    await servers.start()
    if servers.now is None:
        raise RuntimeError("the server did not start")
    expected = await alone(servers.now)
    is_over = asyncio.Event()
    submitters = [Submitter(n, servers, history, seed) for n in range(SUBMITTERS)]
    submitting = [asyncio.create_task(each.run(is_over)) for each in submitters]
    try:
        await kill_often(servers, history, kills, postgres, seed)
        is_over.set()
        await asyncio.gather(*submitting)
        if servers.now is None:
            raise RuntimeError("no server is left")
        jobs = await kept(servers.now)
    finally:
        is_over.set()
        await servers.end()
    again = sum(job["attempts"] - 1 for job in jobs.values())
    share = again / max(1, len(jobs))
    broken = judged(history, jobs, expected)
    if postgres is None and (said := _integrity(folder)) != "ok":
        broken.append(f"integrity_check: {said}")
    if again > in_flight * history.kills or share > DUPLICATES:
        broken.append(f"{again} of {len(jobs)} jobs were begun again")
    return {
        "database": "sqlite" if postgres is None else "postgres",
        "kills": history.kills,
        "in_flight": in_flight,
        "crashes_of_the_database": history.crashes,
        "acknowledged": len(history.sent),
        "submissions_by_answer": dict(history.answers),
        "begun_again": again,
        "begun_again_share": round(share, 5),
        "ready_again_s": round(max(history.started_s), 2),
        "broken_rules": broken[:30],
    }


def _integrity(folder: Path) -> str:
    with contextlib.closing(sqlite3.connect(folder / "data/server.db")) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


def _catalog(folder: Path) -> Path:
    """One model, which loads fast."""
    catalog = embedded_catalog()
    catalog["models"] = {MODEL: catalog["models"][MODEL]}
    (version,) = catalog["models"][MODEL].values()
    catalog["artefacts"] = {version["artefact"]: catalog["artefacts"][version["artefact"]]}
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(catalog), encoding="utf-8")
    return path


@contextlib.contextmanager
def database(kind: str) -> Iterator[PostgresServer | None]:
    if kind == "sqlite":
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with running_postgres(Path(folder)) as server:
            yield server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help="JOB_MAX_INPUTS")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    arguments = parser.parse_args()
    warn_when_busy()
    with tempfile.TemporaryDirectory() as folder, database(arguments.database) as postgres:
        how = (arguments.kills, arguments.seed, arguments.in_flight, postgres)
        report = asyncio.run(chaos(Path(folder), *how))
    print(json.dumps(report, indent=2))
    return 1 if report["broken_rules"] else 0


if __name__ == "__main__":
    sys.exit(main())
