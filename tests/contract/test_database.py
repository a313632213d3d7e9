"""Writes share transactions, and none pays for another's mistake."""

import asyncio
import threading

import pytest
import pytest_asyncio
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    event,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.core.errors import ConfigurationError, InvalidRequest, StorageUnavailable
from app.storage.database import READERS, Database
from app.storage.engines import open_engines
from app.storage.schema import heads, migrate

THINGS = Table("things", MetaData(), Column("number", Integer, primary_key=True))


@pytest_asyncio.fixture(autouse=True)
async def table(database):
    await database.write(THINGS.create)


def add(number: int):
    return lambda connection: connection.execute(insert(THINGS).values(number=number)) and number


def numbers(connection: Connection) -> list[int]:
    return list(connection.execute(select(THINGS.c.number).order_by(THINGS.c.number)).scalars())


async def test_what_is_written_is_read(database):
    assert await database.write(add(1)) == 1
    assert await database.read(numbers) == [1]


async def hold_the_writer(database: Database) -> tuple[threading.Event, asyncio.Task[object]]:
    """Until the event is set, so that those who come meanwhile are one group."""
    begun, go = threading.Event(), threading.Event()

    def wait(_: Connection) -> None:
        begun.set()
        go.wait(10)

    held = asyncio.create_task(database.write(wait))
    await asyncio.to_thread(begun.wait, 10)
    return go, held


async def test_who_waits_shares_one_transaction_and_errors_stay_alone(database, engines):
    go, held = await hold_the_writer(database)
    commits: list[int] = []
    event.listen(engines.writer, "commit", lambda _: commits.append(1))

    def refuse(connection: Connection) -> None:
        add(100)(connection)
        raise InvalidRequest("no")

    writes = [database.write(add(n)) for n in (1, 2, 2, 3)] + [database.write(refuse)]
    gathered = asyncio.gather(*writes, return_exceptions=True)
    await asyncio.sleep(0)
    go.set()
    results = await gathered
    await held
    assert results[:2] == [1, 2] and results[3] == 3
    assert isinstance(results[2], IntegrityError) and isinstance(results[4], InvalidRequest)
    assert await database.read(numbers) == [1, 2, 3]
    assert len(commits) == 2  # of the one that held the writer, and of all others


async def test_a_broken_statement_does_not_break_its_group(database):
    go, held = await hold_the_writer(database)
    writes = [
        database.write(add(1)),
        database.write(lambda connection: connection.execute(text("SELECT nothing FROM nowhere"))),
        database.write(add(2)),
    ]
    gathered = asyncio.gather(*writes, return_exceptions=True)
    await asyncio.sleep(0)
    go.set()
    first, broken, second = await gathered
    await held
    assert (first, second) == (1, 2) and isinstance(broken, StorageUnavailable)
    assert await database.read(numbers) == [1, 2]


async def test_readers_cannot_write(database):
    with pytest.raises((StorageUnavailable, DBAPIError)):
        await database.read(add(1))
    assert await database.read(numbers) == []


async def test_closing_writes_what_waits_and_takes_no_more(database, engines):
    other = Database(engines)
    written = asyncio.gather(*(other.write(add(n)) for n in range(50)))
    await asyncio.sleep(0)
    await other.close()
    await written
    with pytest.raises(StorageUnavailable):
        await other.write(add(51))
    count = await database.read(lambda c: c.scalar(select(func.count()).select_from(THINGS)))
    assert count == 50


async def test_migrating_again_changes_nothing(engines, database):
    migrate(engines)
    query = text("SELECT version_num FROM alembic_version")
    assert await database.read(lambda c: set(c.execute(query).scalars())) == heads()


async def test_a_newer_schema_is_left_alone(engines, database):
    table = "CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) PRIMARY KEY)"
    await database.write(lambda c: c.execute(text(table)))
    row = "INSERT INTO alembic_version VALUES ('jobs_9999')"
    await database.write(lambda c: c.execute(text(row)))
    with pytest.raises(ConfigurationError, match="newer version"):
        migrate(engines)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://user:secret@host/db", "sqlite:/// or postgresql://"),
        ("nonsense", "sqlite:/// or postgresql://"),
        ("sqlite://", "name a file"),
        ("sqlite:////proc/no/such.db", "cannot make the folder"),
    ],
)
def test_a_wrong_address_is_refused_without_being_told(url, named):
    with pytest.raises(ConfigurationError, match=named) as refused:
        open_engines(url, READERS)
    assert "secret" not in str(refused.value)


def test_a_database_that_cannot_be_reached_is_said_at_the_start():
    engines = open_engines("postgresql://user:secret@127.0.0.1:1/db", READERS)
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as refused:
        migrate(engines)
    assert "secret" not in str(refused.value)


async def test_a_group_that_finds_no_database_asks_for_it_once():
    """Each try may take as long as a host that does not answer lets it."""
    engines = open_engines("postgresql://user:secret@127.0.0.1:1/db", READERS)
    tries: list[int] = []
    event.listen(engines.writer, "do_connect", lambda *_: tries.append(1))
    database = Database(engines)
    writes = [database.write(add(n)) for n in range(20)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    await database.close()
    assert {type(each) for each in results} == {StorageUnavailable}
    assert len(tries) <= 2, "the first may have been alone"
    assert "secret" not in str(results[0]) and "cannot be reached" in str(results[0])


async def test_a_connection_that_breaks_in_a_group_costs_only_who_broke_it(database):
    go, held = await hold_the_writer(database)

    def break_off(connection: Connection) -> None:
        if database.is_postgres:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        else:
            connection.connection.driver_connection.close()  # type: ignore[union-attr]
            connection.execute(text("SELECT 1"))

    writes = [database.write(add(1)), database.write(break_off), database.write(add(2))]
    gathered = asyncio.gather(*writes, return_exceptions=True)
    await asyncio.sleep(0)
    go.set()
    first, broken, second = await gathered
    await asyncio.gather(held, return_exceptions=True)
    assert isinstance(broken, StorageUnavailable), broken
    assert (first, second) == (1, 2)
    assert await database.read(numbers) == [1, 2]
