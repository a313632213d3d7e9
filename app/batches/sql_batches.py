"""Statements on batches. Each function runs in a transaction; statuses change by comparing."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from app.batches import sql_files
from app.batches.sql_files import paged
from app.batches.status import (
    CANCELLABLE,
    Batch,
    BatchStatus,
    Counts,
    Problem,
    StoredFile,
    new_file_id,
)
from app.batches.store import Page
from app.batches.tables import BATCHES
from app.core.errors import NotCancellable

_encode = msgspec.json.Encoder().encode
_NOT_ENDED = BATCHES.c.ended_at.is_(None)
_COUNTS = ("total", "completed", "failed")


def add(connection: Connection, batch: Batch) -> None:
    row: dict[str, Any] = {
        name: getattr(batch, name)
        for name in BATCHES.c.keys()
        if name not in (*_COUNTS, "metadata", "models", "problems", "status")
    }
    metadata = None if batch.metadata is None else _encode(batch.metadata)
    models = None if batch.models is None else _encode(sorted(batch.models))
    row |= {
        "metadata": metadata,
        "models": models,
        "status": batch.status.value,
        **_counted(batch.counts),
    }
    connection.execute(insert(BATCHES), row)


def get(connection: Connection, batch_id: str, caller: str | None = None) -> Batch | None:
    """Of any caller where none is named."""
    query = select(BATCHES).where(BATCHES.c.id == batch_id)
    if caller is not None:
        query = query.where(BATCHES.c.caller == caller)
    row = connection.execute(query).one_or_none()
    return None if row is None else _batch(row)


def page(connection: Connection, page: Page) -> list[Batch]:
    return [_batch(row) for row in connection.execute(paged(BATCHES, page))]


def open_in(connection: Connection, place: str) -> list[Batch]:
    query = select(BATCHES).where(_NOT_ENDED, BATCHES.c.place == place).order_by(BATCHES.c.id)
    return [_batch(row) for row in connection.execute(query.limit(sql_files.CHUNK))]


def begin(connection: Connection, batch_id: str, total: int, now: float) -> bool:
    values = {"status": BatchStatus.IN_PROGRESS.value, "in_progress_at": now, "total": total}
    return _change(connection, batch_id, (BatchStatus.VALIDATING,), values)


def fail(connection: Connection, batch_id: str, problems: Sequence[Problem], now: float) -> bool:
    values = {
        "status": BatchStatus.FAILED.value,
        "ended_at": now,
        "problems": _encode(problems),
    }
    return _change(connection, batch_id, CANCELLABLE, values)


def note_counts(connection: Connection, batch_id: str, counts: Counts) -> BatchStatus | None:
    changed = update(BATCHES).where(BATCHES.c.id == batch_id, _NOT_ENDED).values(**_counted(counts))
    status = connection.execute(changed.returning(BATCHES.c.status)).scalar_one_or_none()
    return None if status is None else BatchStatus(status)


def cancel(connection: Connection, caller: str, batch_id: str, now: float) -> Batch | None:
    """One that is being cancelled stays so."""
    found = get(connection, batch_id, caller)
    if found is None or found.status is BatchStatus.CANCELLING:
        return found
    values = {"status": BatchStatus.CANCELLING.value, "cancelling_at": now}
    if not _change(connection, batch_id, CANCELLABLE, values):
        raise NotCancellable(f"the batch is {found.status}; it can no longer be cancelled")
    return get(connection, batch_id)


def conclude(
    connection: Connection, batch_id: str, counts: Counts, *, is_whole: bool, now: float
) -> Batch | None:
    values = {
        "output_id": func.coalesce(BATCHES.c.output_id, new_file_id()),
        "error_id": func.coalesce(BATCHES.c.error_id, new_file_id()),
        **_counted(counts),
    }
    connection.execute(update(BATCHES).where(BATCHES.c.id == batch_id, _NOT_ENDED).values(**values))
    if is_whole:
        finalizing = {"status": BatchStatus.FINALIZING.value, "finalizing_at": now}
        _change(connection, batch_id, (BatchStatus.IN_PROGRESS,), finalizing)
    return get(connection, batch_id)


def end(
    connection: Connection,
    batch_id: str,
    status: BatchStatus,
    outputs: Sequence[StoredFile],
    now: float,
) -> None:
    there = {file.id for file in outputs}
    found = get(connection, batch_id)
    if found is None or not found.status.is_open:
        return
    values = {
        "status": status.value,
        "ended_at": now,
        "output_id": found.output_id if found.output_id in there else None,
        "error_id": found.error_id if found.error_id in there else None,
    }
    connection.execute(update(BATCHES).where(BATCHES.c.id == batch_id).values(**values))
    sql_files.add(connection, outputs)


def _change(
    connection: Connection, batch_id: str, before: Sequence[BatchStatus], values: dict[str, Any]
) -> bool:
    is_so = BATCHES.c.status.in_([status.value for status in before])
    changed = update(BATCHES).where(BATCHES.c.id == batch_id, is_so).values(**values)
    return bool(connection.execute(changed).rowcount)


def _counted(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in _COUNTS}


def _batch(row: Any) -> Batch:
    fields: dict[str, Any] = row._asdict()
    counts = Counts(*(fields.pop(name) for name in _COUNTS))
    metadata, models, problems = (fields.pop(name) for name in ("metadata", "models", "problems"))
    return Batch(
        **fields
        | {
            "status": BatchStatus(row.status),
            "counts": counts,
            "metadata": None if metadata is None else msgspec.json.decode(metadata),
            "models": None if models is None else frozenset(msgspec.json.decode(models)),
            "problems": () if problems is None else _problems(problems),
        }
    )


def _problems(body: bytes) -> tuple[Problem, ...]:
    return msgspec.json.decode(body, type=tuple[Problem, ...])
