"""Statements on files. Each function runs in a transaction."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Select, Table, delete, func, insert, select

from app.batches.status import Purpose, StoredFile, check_room
from app.batches.store import Page
from app.batches.tables import BATCHES, FILES
from app.core.errors import FileInUse

CHUNK = 1000  # most rows that one statement on many changes

_NOT_ENDED = BATCHES.c.ended_at.is_(None)
_INPUTS_IN_USE = select(BATCHES.c.input_file_id).where(_NOT_ENDED)


def add(connection: Connection, files: Iterable[StoredFile]) -> None:
    rows = [asdict(file) | {"purpose": file.purpose.value} for file in files]
    if rows:
        connection.execute(insert(FILES), rows)


def add_within(connection: Connection, file: StoredFile, most_bytes: int | None) -> None:
    """most_bytes: of all its caller's files, with it. Raises CallerFilesFull."""
    if most_bytes is not None:
        check_room(caller_bytes(connection, file.caller, file.created_at), file.size, most_bytes)
    add(connection, [file])


def caller_bytes(connection: Connection, caller: str, now: float) -> int:
    own = (FILES.c.caller == caller) & (FILES.c.expires_at > now)
    return int(connection.scalar(select(func.sum(FILES.c.size)).where(own)) or 0)


def get(connection: Connection, caller: str, file_id: str, now: float) -> StoredFile | None:
    own = (FILES.c.id == file_id) & (FILES.c.caller == caller) & (FILES.c.expires_at > now)
    row = connection.execute(select(FILES).where(own)).one_or_none()
    return None if row is None else _file(row)


def page(connection: Connection, page: Page, now: float) -> list[StoredFile]:
    query = paged(FILES, page).where(FILES.c.expires_at > now)
    if page.purpose is not None:
        query = query.where(FILES.c.purpose == page.purpose)
    return [_file(row) for row in connection.execute(query)]


def paged(table: Table, page: Page) -> Select[Any]:
    """Ids are in the order of their time."""
    key = table.c.id
    query = select(table).where(table.c.caller == page.caller).limit(page.limit)
    query = query.order_by(key if page.is_ascending else key.desc())
    if page.after is None:
        return query
    return query.where(key > page.after if page.is_ascending else key < page.after)


def remove(connection: Connection, caller: str, file_id: str, now: float) -> StoredFile | None:
    found = get(connection, caller, file_id, now)
    if found is None:
        return None
    in_use = select(BATCHES.c.id).where(_NOT_ENDED, BATCHES.c.input_file_id == file_id).limit(1)
    if connection.scalar(in_use) is not None:
        raise FileInUse
    connection.execute(delete(FILES).where(FILES.c.id == file_id))
    return found


def remove_expired(connection: Connection, now: float) -> list[StoredFile]:
    """Files, but those that are still read; and batches as old as their outputs."""
    is_over = (FILES.c.expires_at <= now) & FILES.c.id.not_in(_INPUTS_IN_USE)
    rows = connection.execute(select(FILES).where(is_over).limit(CHUNK)).all()
    if rows:
        connection.execute(delete(FILES).where(FILES.c.id.in_([row.id for row in rows])))
    is_old = BATCHES.c.ended_at + BATCHES.c.keep_s <= now
    old = connection.execute(select(BATCHES.c.id).where(is_old).limit(CHUNK)).scalars().all()
    if old:
        connection.execute(delete(BATCHES).where(BATCHES.c.id.in_(old)))
    return [_file(row) for row in rows]


def known(connection: Connection, file_ids: list[str]) -> set[str]:
    """Batches first: one that ends meanwhile has its files by the time that those are read."""
    found: set[str] = set()
    for row in connection.execute(
        select(BATCHES.c.output_id, BATCHES.c.error_id).where(_NOT_ENDED)
    ):
        found |= {row.output_id, row.error_id} & set(file_ids)
    there = select(FILES.c.id).where(FILES.c.id.in_(file_ids))
    return found | set(connection.execute(there).scalars())


def _file(row: Any) -> StoredFile:
    fields: dict[str, Any] = row._asdict()
    return StoredFile(**fields | {"purpose": Purpose(row.purpose), "sha256": bytes(row.sha256)})
