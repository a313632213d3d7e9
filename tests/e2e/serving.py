"""A whole server as its own process, started as a user starts it, and what it logs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from app.models.catalog import CATALOGS, profile_path
from tests.processes import living, until

ROOT = Path(__file__).parents[2]
READY_S = 240.0  # the first start on a machine fetches model files and measures the processor
ENDS_S = 30.0

Event = dict[str, Any]
Through = Callable[..., tuple[str, ...]]
"""Makes the command that starts a command."""


def plainly(*command: str) -> tuple[str, ...]:
    return command


def environment(**settings: object) -> dict[str, str]:
    """The user's own, so that MODEL_STORE is shared between runs, but for a free port and a
    database below the folder that the server starts in."""
    ours: dict[str, object] = {
        "HOST": "127.0.0.1",
        "PORT": 0,
        "LOG_FORMAT": "json",
        "PYTHONPATH": ROOT,
    }
    ours |= {"DATA_DIR": "data", **settings}
    return os.environ | {name: str(value) for name, value in ours.items()}


def run_cli(
    folder: Path, *arguments: str, through: Through = plainly, **settings: object
) -> subprocess.CompletedProcess[str]:
    """`python -m app.cli`, over the database of a server that starts in that folder. through: how
    the command is started."""
    return subprocess.run(
        through(sys.executable, "-m", "app.cli", *arguments),
        cwd=folder,
        env=environment(LOG_LEVEL="error", **settings),
        capture_output=True,
        text=True,
    )


def cli(folder: Path, *arguments: str, through: Through = plainly, **settings: object) -> str:
    """What it says."""
    done = run_cli(folder, *arguments, through=through, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def catalog_with_caches(folder: Path, *models: str) -> Path:
    """The embedded catalog, whose named models may keep their answers."""
    document = yaml.safe_load(profile_path("embedded").read_text(encoding="utf-8"))
    for model in models:
        for version in document["models"][model].values():
            version["cache"] = True
    return _written(document, folder)


def catalog_of(folder: Path, model: str) -> Path:
    """One of the embedded catalog's models alone, which is ready sooner than all."""
    document = yaml.safe_load(profile_path("embedded").read_text(encoding="utf-8"))
    versions = document["models"][model]
    used = {version["artefact"] for version in versions.values()}
    document["models"] = {model: versions}
    document["artefacts"] = {name: document["artefacts"][name] for name in used}
    return _written(document, folder)


def _written(document: Any, folder: Path) -> Path:
    catalog = folder / "catalog.yaml"
    text = yaml.safe_dump(document, sort_keys=False)
    catalog.write_text(text.replace("file://../", f"file://{CATALOGS.parent}/"), encoding="utf-8")
    return catalog


COMMAND = (sys.executable, "-m", "app.main")


class ServerProcess:
    """`python -m app.main`, in a session of its own so that it can be signalled as a group."""

    def __init__(
        self, folder: Path, command: tuple[str, ...] = COMMAND, /, **settings: object
    ) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            command,
            cwd=folder,  # no `.env` there
            env=environment(**settings),
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.events: list[Event] = []
        self.other_lines: list[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port: int = self.wait_for(lambda e: e["event"] == "listening", ENDS_S)["port"]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _read(self) -> None:
        stderr = self.process.stderr
        for line in stderr or ():
            with self._changed:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.other_lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def wait_for(
        self, wanted: Callable[[Event], bool], bound_s: float = READY_S, after: int = 0
    ) -> Event:
        """The first such event of the log, which may have been written already.

        after: how many events of the log are not looked at.
        """
        ends = time.monotonic() + bound_s
        with self._changed:
            while True:
                for event in self.events[after:]:
                    if wanted(event):
                        return event
                left = ends - time.monotonic()
                if left <= 0 or self._has_ended:
                    raise AssertionError(f"not logged: {self.events[-20:]} {self.other_lines}")
                self._changed.wait(left)

    def until_ready(self, bound_s: float = READY_S) -> None:
        until(lambda: self.client.get("/health/ready").is_success, "readiness", bound_s)

    def worker_pids(self) -> dict[str, int]:
        """The latest process of each worker, by the worker's name."""
        with self._changed:
            return {e["worker"]: e["pid"] for e in self.events if e["event"] == "worker_ready"}

    def infer(
        self, model: str, text: str, *, headers: Mapping[str, str] | None = None, **parameters: Any
    ) -> httpx.Response:
        body = {"model": model, "text": text, "parameters": parameters}
        return self.client.post("/infer", json=body, headers=headers)

    def unanswered(self, model: str) -> int:
        """Inputs inside the worker of a model."""
        models = self.client.get("/models").json()["models"]
        (worker,) = [m["versions"][0]["worker"] for m in models if m["name"] == model]
        unanswered: int = worker["unanswered"]
        return unanswered

    def tell_all(self, number: signal.Signals) -> None:
        """Signal the server and its workers, as a terminal or a service manager does."""
        os.killpg(self.process.pid, number)

    def end(self) -> int:
        """The exit status after SIGTERM; whoever is still there after `ENDS_S` is killed."""
        children = psutil.Process(self.process.pid).children() if living(self.process.pid) else []
        self.process.terminate()
        try:
            return self.wait()
        finally:
            for child in children:
                if living(child.pid):
                    child.kill()

    def wait(self) -> int:
        try:
            return self.process.wait(ENDS_S)
        finally:
            self.process.kill()
            self._reader.join()
            if self.process.stderr:
                self.process.stderr.close()
            self.client.close()
