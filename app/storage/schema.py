"""Brings a database's schema up to what this version of the server needs.

Every feature has a chain of migrations of its own, `migrations/versions/<feature>_<number>.py`;
the last of each is what a database must have. Alembic is loaded only where one does not.
"""

from pathlib import Path

import structlog
from sqlalchemy import Connection, inspect, text

from app.core.errors import ConfigurationError
from app.storage.engines import Engines
from app.storage.trouble import usable

log = structlog.get_logger()

MIGRATIONS = Path(__file__).with_name("migrations")
_ANY_NUMBER = 0x1F2E  # of our lock among PostgreSQL's advisory ones


def heads() -> frozenset[str]:
    """The last revision of each chain."""
    last: dict[str, str] = {}
    for path in sorted((MIGRATIONS / "versions").glob("*_*.py")):
        last[path.stem.rpartition("_")[0]] = path.stem
    return frozenset(last.values())


def migrate(engines: Engines) -> None:
    """Raises ConfigurationError where the database cannot be had, or is newer than we are."""
    with usable(), engines.writing() as connection:
        if engines.is_postgres:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ANY_NUMBER})"))
        if (found := _revisions(connection)) != heads():
            _upgrade(connection, found)


def _revisions(connection: Connection) -> frozenset[str]:
    if not inspect(connection).has_table("alembic_version"):
        return frozenset()
    return frozenset(connection.execute(text("SELECT version_num FROM alembic_version")).scalars())


def _upgrade(connection: Connection, found: frozenset[str]) -> None:
    known = {path.stem for path in (MIGRATIONS / "versions").glob("*_*.py")}
    if strange := found - known:
        raise ConfigurationError(
            f"the database has a schema of a newer version of this server: {min(strange)}"
        )
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    command.upgrade(config, "heads")
    log.info("database_migrated", revisions=sorted(heads()))
