"""Why the database cannot be used: for callers, in words that give away neither addresses nor
statements, and for whoever runs the server as the driver says it."""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping

from sqlalchemy.exc import DBAPIError

from app.core.disk import BROKEN, FULL, READ_ONLY, words_for
from app.core.errors import ConfigurationError

AWAY = "The server's database cannot be reached; try again later."
BUSY = "The server's database is busy; try again later."
DAMAGED = "The server's database is damaged; the server's log has the reason."
OTHER = "The server's database cannot be used now; the server's log has the reason."

_SQLITE: Mapping[int, str] = {
    sqlite3.SQLITE_FULL: FULL,
    sqlite3.SQLITE_READONLY: READ_ONLY,
    sqlite3.SQLITE_IOERR: BROKEN,
    sqlite3.SQLITE_CANTOPEN: BROKEN,
    sqlite3.SQLITE_BUSY: BUSY,
    sqlite3.SQLITE_CORRUPT: DAMAGED,
    sqlite3.SQLITE_NOTADB: DAMAGED,
}
_POSTGRES: Mapping[str, str] = {  # by the beginning of SQLSTATE
    "08": AWAY,
    "25006": READ_ONLY,  # a standby's
    "53100": FULL,
    "53": BUSY,  # of connections, memory
    "57P": AWAY,  # it stops, or starts
    "58": BROKEN,
    "XX": DAMAGED,
}


def reason_of(error: Exception) -> str:
    """In one line, for the log and the command line."""
    return " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """For programs that cannot go on without. Raises ConfigurationError with the reason."""
    try:
        yield
    except (DBAPIError, TimeoutError, OSError) as error:
        reason = reason_of(error)
        raise ConfigurationError(f"cannot use the database of DATABASE_URL: {reason}") from None


def told(error: Exception) -> str:
    """error: as the database's driver, its pool or the lock beside it raises it."""
    if isinstance(error, TimeoutError):
        return BUSY
    if isinstance(error, OSError):
        return words_for(error)
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        return _SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF, OTHER)
    state = getattr(cause, "sqlstate", None)
    if state is None:  # it never answered, or its connection broke
        return AWAY
    return next((words for begin, words in _POSTGRES.items() if state.startswith(begin)), OTHER)
