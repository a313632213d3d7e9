"""What the store of jobs costs on SQLite, with durable commits.

    python -m benchmarks.jobs_store --backlog 1000000

Single submissions, one after the other and by callers at the same time; submissions of many; claims
of 64 while a million wait, and the ends of what was claimed. Exits 1 when a bar is missed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from app.core.types import Priority
from app.jobs.sql import SqlJobStore
from app.jobs.status import Ending, JobState, NewJob
from app.jobs.store import Limits
from app.storage.database import READERS, Database
from app.storage.engines import open_engines
from app.storage.schema import migrate
from benchmarks.harness import Bars, warn_when_busy

AT_ONCE = 64
CLAIM, CLAIMS = 64, 200
MANY = 50_000
REQUEST = b'{"text":"I love this AI inference backend! It works perfectly.","model":"sentiment"}'
DONE = Ending(JobState.SUCCEEDED, b'{"success":true,"result":"positive"}')


def jobs(count: int, priority: Priority = Priority.NORMAL) -> list[NewJob]:
    return [
        NewJob(f"caller{n % 10}", "/infer", REQUEST, 1e6, priority=priority) for n in range(count)
    ]


async def one_by_one(store: SqlJobStore, count: int, at_once: int) -> float:
    """Submissions per second, each durable before its caller goes on."""
    waiting = jobs(count)

    async def caller() -> None:
        while waiting:
            await store.submit([waiting.pop()])

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return count / (time.perf_counter() - started)


async def all_at_once(store: SqlJobStore, count: int) -> float:
    started = time.perf_counter()
    for at in range(0, count, MANY):
        await store.submit(jobs(min(MANY, count - at), Priority.BATCH))
    return count / (time.perf_counter() - started)


async def claim_and_finish(store: SqlJobStore) -> tuple[float, float]:
    """Milliseconds per job of claiming, and of finishing."""
    claiming = finishing = 0.0
    for _ in range(CLAIMS):
        started = time.perf_counter()
        claimed = await store.claim("benchmark", CLAIM, 60.0)
        claiming += time.perf_counter() - started
        started = time.perf_counter()
        ended = await asyncio.gather(*(store.finish(job, DONE) for job in claimed))
        finishing += time.perf_counter() - started
        if not all(ended) or len(ended) != CLAIM:
            raise RuntimeError("the store lost a job of this benchmark")
    count = CLAIM * CLAIMS
    return 1000 * claiming / count, 1000 * finishing / count


async def measure(folder: Path, backlog: int, bars: Bars) -> None:
    engines = open_engines(f"sqlite:///{folder / 'jobs.db'}", READERS)
    migrate(engines)
    database = Database(engines)
    store = SqlJobStore(database, Limits())
    print(f"one caller: {await one_by_one(store, 2000, 1):.0f} submissions per second")
    bars.at_least("single submissions/s", await one_by_one(store, 20_000, AT_ONCE), 1000)
    bars.at_least("submissions of 50,000, jobs/s", await all_at_once(store, backlog), 20_000)
    claiming, finishing = await claim_and_finish(store)
    bars.at_most(f"claim at a backlog of {backlog:,}, ms per job", claiming, 0.2)
    print(f"finish, 64 at the same time: {finishing:.3f} ms per job")
    started = time.perf_counter()
    depth = await store.depth()
    print(f"depth of {sum(depth.waiting.values()):,} jobs: {time.perf_counter() - started:.3f} s")
    bars.at_least(
        "single submissions/s beside the backlog", await one_by_one(store, 5000, AT_ONCE), 1000
    )
    await database.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backlog", type=int, default=1_000_000)
    parser.add_argument("--folder", help="where the database is made; default: a temporary folder")
    chosen = parser.parse_args(arguments)
    warn_when_busy()
    bars = Bars()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        asyncio.run(measure(Path(folder), chosen.backlog, bars))
    return bars.exit_status()


if __name__ == "__main__":
    sys.exit(main())
