"""Callers are told what is wrong with the storage, and nothing that is none of their business."""

import errno
import sqlite3

import pytest
from psycopg import errors as postgres
from sqlalchemy.exc import OperationalError

from app.core.disk import BROKEN, FULL, READ_ONLY
from app.core.errors import ConfigurationError
from app.storage.trouble import AWAY, BUSY, DAMAGED, OTHER, reason_of, told, usable


def sqlite(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    return error


def wrapped(error: Exception) -> OperationalError:
    return OperationalError("INSERT INTO secrets", {}, error)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "no space", "/data"), FULL),
        (OSError(errno.EDQUOT, "quota", "/data"), FULL),
        (OSError(errno.EROFS, "read-only", "/data"), READ_ONLY),
        (OSError(errno.EIO, "I/O error", "/data"), BROKEN),
        (TimeoutError("the lock"), BUSY),
        (wrapped(sqlite(sqlite3.SQLITE_FULL)), FULL),
        (wrapped(sqlite(sqlite3.SQLITE_READONLY_DBMOVED)), READ_ONLY),
        (wrapped(sqlite(sqlite3.SQLITE_IOERR_WRITE)), BROKEN),
        (wrapped(sqlite(sqlite3.SQLITE_BUSY)), BUSY),
        (wrapped(sqlite(sqlite3.SQLITE_CORRUPT)), DAMAGED),
        (wrapped(sqlite(sqlite3.SQLITE_ERROR)), OTHER),
        (wrapped(postgres.DiskFull()), FULL),
        (wrapped(postgres.ReadOnlySqlTransaction()), READ_ONLY),
        (wrapped(postgres.TooManyConnections()), BUSY),
        (wrapped(postgres.AdminShutdown()), AWAY),
        (wrapped(postgres.CannotConnectNow()), AWAY),
        (wrapped(postgres.IndexCorrupted()), DAMAGED),
        (wrapped(postgres.UndefinedTable()), OTHER),
        (wrapped(postgres.OperationalError("host db.internal is away")), AWAY),
    ],
)
def test_each_trouble_has_its_words(error, words):
    assert told(error) == words


def test_who_runs_the_server_is_told_in_one_line_what_the_driver_says():
    error = wrapped(sqlite3.OperationalError("the disk\n\tis full\n"))
    assert reason_of(error) == "the disk is full"
    with pytest.raises(ConfigurationError, match="DATABASE_URL: the disk is full$"), usable():
        raise error
