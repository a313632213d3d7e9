"""Everything here runs on SQLite and on PostgreSQL: what holds on one must hold on the other."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import create_engine, text

from app.storage.database import READERS, Database
from app.storage.engines import Engines, open_engines
from app.storage.schema import migrate
from tests.postgres import PostgresServer, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with running_postgres(Path(folder)) as server:
            yield server


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    admin = create_engine(server.url().replace("postgresql", "postgresql+psycopg", 1))
    with admin.begin() as connection:  # a new database for each test would take far longer
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    admin.dispose()
    return server.url()


@pytest.fixture
def engines(database_url: str) -> Iterator[Engines]:
    """With our schema."""
    opened = open_engines(database_url, READERS)
    migrate(opened)
    yield opened
    opened.dispose()


@pytest_asyncio.fixture
async def database(engines: Engines) -> AsyncIterator[Database]:
    opened = Database(engines)
    yield opened
    await opened.close()
