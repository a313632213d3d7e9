"""Usage in the database: added to, and summed up. Every function runs in its caller's transaction.

A group of additions has a number in the sequence of its writer. The number is stored with it, so
that a group whose commit was not heard of can be sent again and is added once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.keys.tables import KEYS, SUMS, USAGE, WRITERS

Place = tuple[str, str, str, date]
"""key, model, version, day"""

GROUPS = ("key", "model", "version", "day")
WRITERS_KEPT_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Group:
    """Additions that are stored together, or not at all."""

    writer: str
    sequence: int
    rows: Mapping[Place, Sequence[float]]  # in the order of SUMS


@dataclass(frozen=True, slots=True)
class Period:
    """Days, both included."""

    first: date
    last: date


def add(connection: Connection, group: Group, now: float) -> None:
    """Once, however often it is called with the same group."""
    if not _is_next(connection, group, now):
        return
    rows = [
        dict(zip(("key_id", "model", "version", "day"), place, strict=True))
        | dict(zip(SUMS, sums, strict=True))
        for place, sums in group.rows.items()
    ]
    connection.execute(_upsert(connection, USAGE), rows)


def _is_next(connection: Connection, group: Group, now: float) -> bool:
    mine = WRITERS.c.writer == group.writer
    stored = connection.scalar(select(WRITERS.c.sequence).where(mine))
    if stored is None:
        connection.execute(delete(WRITERS).where(WRITERS.c.at < now - WRITERS_KEPT_S))
        values = {"writer": group.writer, "sequence": group.sequence, "at": now}
        connection.execute(insert(WRITERS).values(values))
        return True
    if stored >= group.sequence:
        return False
    connection.execute(update(WRITERS).where(mine).values(sequence=group.sequence, at=now))
    return True


def _upsert(connection: Connection, table: Table) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + statement.excluded[name] for name in SUMS},
    )


def totals(
    connection: Connection, period: Period, by: Sequence[str], key_id: str | None = None
) -> list[dict[str, Any]]:
    """Sums in the order of their groups. by: some of GROUPS. key_id: None for all keys."""
    columns = [_column(name) for name in by]
    sums = [func.coalesce(func.sum(USAGE.c[name]), 0).label(name) for name in SUMS]
    query = (
        select(*columns, *sums)
        .select_from(USAGE.outerjoin(KEYS, KEYS.c.id == USAGE.c.key_id))
        .where(USAGE.c.day.between(period.first, period.last))
        .group_by(*columns)
        .order_by(*columns)
    )
    if key_id is not None:
        query = query.where(USAGE.c.key_id == key_id)
    return [_whole(row._asdict()) for row in connection.execute(query)]


def _column(name: str) -> Any:
    if name == "key":
        return func.coalesce(KEYS.c.name, "").label("key")
    return USAGE.c[name]


def _whole(row: dict[str, Any]) -> dict[str, Any]:
    """PostgreSQL's sums of whole numbers are decimals."""
    counts = {name: int(row[name]) for name in SUMS if name != "compute_ms"}
    return {**row, **counts, "compute_ms": float(row["compute_ms"])}
