"""A thousand clients that leave at random moments: does the server forget them?

    python -m benchmarks.leaving_clients [--clients 1000] [--spread-s 10] [--stay-s 3]

Each asks for a text, a mixed batch or a long generation; an eighth breaks off inside the request,
half leave with a reset. Prints how long after the last one had left the server had withdrawn
everything, how long until every gauge was at zero, and what it computed after that. Exits 1 when
that takes longer than a batch and a step may, or something is left.
"""

import argparse
import asyncio
import json
import sys
import time

import psutil

from benchmarks.harness import Bars, running_server, warn_when_busy
from tests.e2e.leaving import BEATS_S, PASSES, Leaving, come_and_leave, figures
from tests.e2e.leaving import until_nothing_is_left

PATIENCE_S = 30.0
WITHDRAWN_BAR_S = 1.0  # as soon as what runs has ended, on a machine with nothing to spare


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--spread-s", type=float, default=10)
    parser.add_argument("--stay-s", type=float, default=3)
    arguments = parser.parse_args()
    plan = Leaving(arguments.clients, arguments.spread_s, arguments.stay_s)
    warn_when_busy()
    with running_server() as server:
        api = psutil.Process(server.process.pid)
        before = {"files": api.num_fds(), "memory_mb": _megabytes(api)}
        asyncio.run(come_and_leave(server.port, plan))
        released_s, idle_s = until_nothing_is_left(server, PATIENCE_S)
        time.sleep(BEATS_S)
        first = figures(server)
        time.sleep(BEATS_S)
        last = figures(server)
        passes = last[PASSES] - first[PASSES]
        report = {
            "clients": plan.clients,
            "withdrawn_after_s": round(released_s, 2),
            "gauges_at_zero_after_s": round(idle_s, 2),
            "passes_after_that": passes,
            "passes_before": first[PASSES],
            "before": before,
            "after": {"files": api.num_fds(), "memory_mb": _megabytes(api)},
        }
    print(json.dumps(report, indent=2))
    bars = Bars()
    bars.at_most("everything withdrawn after, s", released_s, WITHDRAWN_BAR_S)
    bars.at_most("gauges at zero after, s", idle_s, WITHDRAWN_BAR_S + BEATS_S)
    bars.at_most("passes after that", passes, 0)
    return bars.exit_status()


def _megabytes(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 2**20, 1)


if __name__ == "__main__":
    sys.exit(main())
