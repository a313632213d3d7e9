"""What administrators did: a row beside the change itself, in its transaction, and a log line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, insert, select

from app.keys.tables import AUDIT

log = structlog.get_logger("app.audit")

MOST_SHOWN = 1000


@dataclass(frozen=True, slots=True)
class Act:
    """actor: a key's name, or `cli:user`. target: what was changed. at: seconds since 1970."""

    at: float
    actor: str
    act: str
    target: str
    details: Mapping[str, Any]
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and in which request."""

    name: str
    request_id: str = ""

    def does(self, act: str, target: str, at: float, **details: Any) -> Act:
        return Act(at, self.name, act, target, details, self.request_id)


def record(connection: Connection, act: Act) -> None:
    """Inside the transaction of what was done."""
    details = msgspec.json.encode(act.details).decode()
    connection.execute(
        insert(AUDIT).values(
            at=act.at,
            actor=act.actor[:128],
            act=act.act,
            target=act.target[:256],
            details=details,
            request_id=act.request_id,
        )
    )


def tell(act: Act) -> None:
    """In the log, once it is done."""
    log.warning("audit", actor=act.actor, act=act.act, target=act.target, **act.details)


def latest(connection: Connection, limit: int, before: int | None) -> Sequence[tuple[int, Act]]:
    """The newest first, with their numbers. before: those with a lower number."""
    query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(min(limit, MOST_SHOWN))
    if before is not None:
        query = query.where(AUDIT.c.id < before)
    return [(row.id, _act(row)) for row in connection.execute(query)]


def _act(row: Any) -> Act:
    details = msgspec.json.decode(row.details)
    return Act(row.at, row.actor, row.act, row.target, details, row.request_id)
