"""`python -m tests.process.doomed_parent FOLDER`: a server that is there to be killed.

Starts an idle worker, one that loads for ever and one that runs for ever, and prints their pids.
"""

import asyncio
import sys
from pathlib import Path

import uvloop

from tests.process.workers import LOAD_S, Bench, ask, eventually, load


async def main(folder: Path) -> None:
    bench = Bench(folder)
    idle = await bench.started("Wellbehaved")
    running = await bench.started("HangsInRun")
    loading = bench.handle(load("HangsInLoad", folder))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask(running, "sin"))
        tasks.create_task(loading.start(LOAD_S))
        await eventually(lambda: loading.pid is not None and running.owed == 1, "the start")
        sys.stdout.write(f"{idle.pid} {running.pid} {loading.pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
