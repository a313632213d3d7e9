"""What the benchmarks share: a real server process, texts of realistic lengths, a quiet machine."""

import contextlib
import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from app.core.config import load_settings
from app.models.catalog import load_catalog, profile_path
from app.models.progress import progress_for_stderr
from app.models.spec import ModelSpec
from app.models.store import ModelStore, fetch_all
from tests.e2e.serving import READY_S, ServerProcess

WORDS = (
    "the service was slow but food came hot and staff were kind we waited long for a table near "
    "window my phone broke after two days battery is great screen looks sharp price seems fair "
    "movie had good actors story felt weak music too loud ending made me cry would not buy again "
    "room smelled clean bed hard breakfast fresh coffee cold parking free view nice happy with it"
).split()


def embedded_catalog(timeout_ms: int | None = None) -> dict[str, Any]:
    """The embedded profile's, for a file that lies elsewhere; with other deadlines, if given."""
    path = profile_path("embedded")
    catalog: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = [artefact["files"] for artefact in catalog["artefacts"].values()]
    files += [
        version["task_files"]
        for versions in catalog["models"].values()
        for version in versions.values()
        if "task_files" in version
    ]
    for file in (file for by_role in files for file in by_role.values()):
        relative = file["source"].removeprefix("file://")
        if relative != file["source"]:
            file["source"] = f"file://{(path.parent / relative).resolve()}"
    for versions in catalog["models"].values():
        for version in versions.values():
            version["default_timeout_ms"] = timeout_ms or version["default_timeout_ms"]
    return catalog


def sentiment_files() -> tuple[ModelSpec, dict[str, str]]:
    """The embedded classifier, and its files by role."""
    spec = next(one for one in load_catalog(profile_path("embedded")) if one.name == "sentiment")
    paths = fetch_all([spec], ModelStore(load_settings().model_store, progress_for_stderr()))
    files = (*spec.artefact.files, *spec.task_files)
    return spec, {file.role: str(paths[file]) for file in files}


@contextlib.contextmanager
def running_server(*, ready_s: float = READY_S, **settings: object) -> Iterator[ServerProcess]:
    """A server of its own, ready within `ready_s`; it is stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), **settings)
        try:
            server.until_ready(ready_s)
            yield server
        finally:
            server.end()


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


class Bars:
    """What was promised beside what was measured: a line each, and one exit status for all."""

    def __init__(self) -> None:
        self._missed = 0

    def at_least(self, what: str, measured: float | None, bar: float) -> None:
        self._judge(what, measured, f"at least {bar:g}", measured is not None and measured >= bar)

    def at_most(self, what: str, measured: float | None, bar: float) -> None:
        self._judge(what, measured, f"at most {bar:g}", measured is not None and measured <= bar)

    def _judge(self, what: str, measured: float | None, bar: str, holds: bool) -> None:
        self._missed += not holds
        shown = "not measured" if measured is None else f"{measured:.4g}"
        print(f"{'holds ' if holds else 'MISSED'}  {what}: {shown} ({bar})")

    def exit_status(self) -> int:
        return 1 if self._missed else 0


def spread(values: Sequence[float]) -> str:
    """Median and range, for a table."""
    return f"{statistics.median(values):9.1f}  ({min(values):.1f} to {max(values):.1f})"
