"""Puts the parts of batches together over an open database. Loads the SQL library."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from app.batches.contents import Contents
from app.batches.runner import BatchRunner
from app.batches.running import BatchLimits, Means
from app.batches.sql import SqlBatchStore
from app.batches.store import BatchStore
from app.batches.work import Work
from app.core.batch_metrics import BatchMetrics
from app.core.errors import ConfigurationError
from app.storage.database import Database


@dataclass(frozen=True, slots=True)
class Batches:
    """What a server has of files and batches."""

    store: BatchStore
    contents: Contents
    runner: BatchRunner


def open_batches(
    database: Database, data_dir: Path, work: Work, limits: BatchLimits, metrics: BatchMetrics
) -> Batches:
    """Raises ConfigurationError for a folder that cannot be used."""
    folder = data_dir.expanduser()
    results = folder / "batches"
    try:
        contents = Contents(folder / "files")
        results.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot use DATA_DIR, {folder}: {error}") from None
    store = SqlBatchStore(database)
    room = asyncio.Semaphore(limits.inputs)
    means = Means(store, contents, work, results, limits, room, metrics)
    return Batches(store, contents, BatchRunner(means))
