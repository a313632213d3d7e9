"""Connections to SQLite and PostgreSQL that behave alike: a writer's, and readers'.

SQLite keeps a write-ahead log and every commit is flushed to the disk. Versions before 3.51.3 can
lose commits when two connections write and checkpoint at the same instant
(sqlite.org/wal.html#walresetbug), so whoever writes, in whichever process, holds a lock on a file
beside the database meanwhile; readers never checkpoint.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from app.core.errors import ConfigurationError

LOCK_WAIT_S = 10.0
BUSY_MS = 5000
POOL_WAIT_S = 10.0
WRITER_CACHE_KIB = 64 * 2**10  # taken as needed: indexes of a long queue are read at random
CONNECT_WAIT_S = 5
NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "fuse.sshfs"}


@dataclass(frozen=True, slots=True)
class Engines:
    """writer: one connection. reader: as many as read at the same time, unable to write."""

    writer: Engine
    reader: Engine
    lock: FileLock | None  # SQLite's

    @property
    def is_postgres(self) -> bool:
        return self.lock is None

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that nobody else writes beside, on SQLite; committed at its end."""
        with self._alone(), self.writer.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """The last connection to SQLite checkpoints as it closes, where the disk allows it."""
        with contextlib.suppress(OSError), self._alone():
            self.reader.dispose()
            self.writer.dispose()

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.lock is None else self.lock


def open_engines(address: str, readers: int) -> Engines:
    """Nothing is connected yet. address: `sqlite:///path` or `postgresql://...`.

    Raises ConfigurationError, without the address: it may hold a password.
    """
    try:
        url = make_url(address)
        kind = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        kind = ""
    if kind == "sqlite":
        return _sqlite(url, readers)
    if kind == "postgresql":
        return _postgres(url.set(drivername="postgresql+psycopg"), readers)
    raise ConfigurationError("DATABASE_URL must begin with sqlite:/// or postgresql://")


def _sqlite(url: URL, readers: int) -> Engines:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("DATABASE_URL must name a file: what is kept must outlive us")
    path = Path(url.database).expanduser().resolve()
    if (file_system := _file_system_of(path)) in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"the folder {path.parent} is on {file_system}, where SQLite loses data; name a local "
            "folder, or use PostgreSQL (DATABASE_URL)"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {path.parent}: {error}") from None
    url = url.set(database=str(path))
    writer = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=POOL_WAIT_S)
    reader = create_engine(url, pool_size=readers, max_overflow=0, pool_timeout=POOL_WAIT_S)
    event.listen(writer, "connect", _prepare_sqlite_writer)
    event.listen(writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    event.listen(reader, "connect", _prepare_sqlite_reader)
    event.listen(reader, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return Engines(writer, reader, FileLock(f"{path}.lock", timeout=LOCK_WAIT_S, mode=0o600))


def _prepare_sqlite_writer(connection: sqlite3.Connection, _: object) -> None:
    pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
    _prepare_sqlite(connection, *pragmas, f"cache_size=-{WRITER_CACHE_KIB}")


def _prepare_sqlite_reader(connection: sqlite3.Connection, _: object) -> None:
    _prepare_sqlite(connection, "query_only=ON", "wal_autocheckpoint=0")


def _prepare_sqlite(connection: sqlite3.Connection, *pragmas: str) -> None:
    connection.isolation_level = None  # transactions begin where we say so
    for pragma in (f"busy_timeout={BUSY_MS}", *pragmas):
        connection.execute(f"PRAGMA {pragma}")


def _postgres(url: URL, readers: int) -> Engines:
    common: dict[str, Any] = {
        "pool_pre_ping": True,  # a server that was restarted costs no request
        "pool_timeout": POOL_WAIT_S,
        "max_overflow": 0,
        "connect_args": {"connect_timeout": CONNECT_WAIT_S, "application_name": "inference"},
        "hide_parameters": True,
    }
    writer = create_engine(url, pool_size=1, **common)
    reader = create_engine(
        url, pool_size=readers, execution_options={"postgresql_readonly": True}, **common
    )
    return Engines(writer, reader, None)


def _file_system_of(path: Path) -> str:
    mounts = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    return next((mounts[folder] for folder in path.parents if folder in mounts), "")
