"""What there is of batches and files, counted for metrics. Runs in a transaction."""

from sqlalchemy import Connection, func, select

from app.batches.status import OPEN, BatchStatus, Purpose
from app.batches.store import Figures
from app.batches.tables import BATCHES, FILES


def figures(connection: Connection, now: float) -> Figures:
    counted = dict.fromkeys(OPEN, 0)
    oldest = now
    for row in connection.execute(_OPEN):
        counted[BatchStatus(row.status)] = row.many
        oldest = min(oldest, row.oldest)
    files = dict.fromkeys(Purpose, (0, 0))
    for row in connection.execute(_FILES):
        files[Purpose(row.purpose)] = (row.many, int(row.bytes))
    return Figures(counted, now - oldest, files)


_OPEN = (
    select(
        BATCHES.c.status,
        func.count().label("many"),
        func.min(BATCHES.c.created_at).label("oldest"),
    )
    .where(BATCHES.c.ended_at.is_(None))
    .group_by(BATCHES.c.status)
)
_FILES = select(
    FILES.c.purpose, func.count().label("many"), func.sum(FILES.c.size).label("bytes")
).group_by(FILES.c.purpose)
