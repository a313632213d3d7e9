"""What the benchmarks share: a real server process, texts of realistic lengths, a quiet machine."""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

READY_WITHIN_S = 180
WORDS = (
    "the service was slow but food came hot and staff were kind we waited long for a table near "
    "window my phone broke after two days battery is great screen looks sharp price seems fair "
    "movie had good actors story felt weak music too loud ending made me cry would not buy again "
    "room smelled clean bed hard breakfast fresh coffee cold parking free view nice happy with it"
).split()


@contextlib.contextmanager
def running_server(**settings: str) -> Iterator[str]:
    """The base address of a server of its own, ready; it is stopped at the end."""
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": "0", "LOG_FORMAT": "json"}
    environment |= {"LOG_LEVEL": "info", **settings}
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        command = [sys.executable, "-m", "app.main"]
        process = subprocess.Popen(command, env=environment, stderr=log)
        try:
            base = f"http://127.0.0.1:{_port(Path(log.name), process)}"
            _wait_until_ready(base, process)
            yield base
        finally:
            process.terminate()
            process.wait(timeout=60)


def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            event = json.loads(line)
            if event.get("event") == "listening":
                return int(event["port"])
        time.sleep(0.05)
    raise SystemExit(f"the server did not start:\n{log.read_text()}")


def _wait_until_ready(base: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        if httpx.get(f"{base}/health/ready").status_code == 200:
            return
        time.sleep(0.1)
    raise SystemExit(f"the server did not become ready: {httpx.get(f'{base}/health').text}")


def texts_of_lognormal_length(count: int, seed: int) -> list[str]:
    """Median about 28 words, 90th percentile about 61, longest 200."""
    source = random.Random(seed)
    lengths = (min(200, max(2, int(source.lognormvariate(3.33, 0.61)))) for _ in range(count))
    return [" ".join(source.choices(WORDS, k=length)) for length in lengths]


def warn_when_busy() -> None:
    """Figures from a busy machine are worth little; say so before taking them."""
    load = os.getloadavg()[0]
    note = " (busy: expect noise)" if load > 0.5 else ""
    print(f"load average {load:.2f} on {os.cpu_count()} CPUs{note}")


def spread(values: Sequence[float]) -> str:
    """Median and range, for a table."""
    return f"{statistics.median(values):9.1f}  ({min(values):.1f} to {max(values):.1f})"
