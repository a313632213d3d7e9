"""Puts the parts of jobs together over an open database. Loads the SQL library."""

from dataclasses import dataclass
from pathlib import Path

from app.core.errors import ConfigurationError
from app.jobs.files import ResultFiles
from app.jobs.owners import Owner
from app.jobs.sql import SqlJobStore, clock_of
from app.jobs.sql_answers import SqlOnceAnswers
from app.jobs.sql_webhooks import SqlWebhooks
from app.jobs.store import Limits
from app.storage.database import Database


@dataclass(frozen=True, slots=True)
class Jobs:
    """store, and answers that are kept for keys, both under one owner; webhooks that are due."""

    store: SqlJobStore
    once: SqlOnceAnswers
    webhooks: SqlWebhooks
    owner: Owner


def open_jobs(database: Database, data_dir: Path, limits: Limits) -> Jobs:
    """Raises ConfigurationError for a folder that cannot be used.

    Servers that share a PostgreSQL need not share a folder, so their results are in the database.
    """
    folder = data_dir.expanduser()
    try:
        owner = Owner(folder / "owners")
    except OSError as error:
        raise ConfigurationError(f"cannot use DATA_DIR, {folder}: {error}") from None
    files = None if database.is_postgres else ResultFiles(folder / "results")
    store = SqlJobStore(database, limits, files=files)
    once = SqlOnceAnswers(database, owner.name, limits.once_s)
    return Jobs(store, once, SqlWebhooks(database, clock_of(database)), owner)
