"""The tables of files and batches, as the migrations `batches_*` make them (a test compares).

There is no table of lines: a batch's are in its file, and what became of them in files that grow
(results.py). What is open is found by an index of its own, whose condition is a literal because
SQLite uses such an index for no bound parameter.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

METADATA = MetaData()

FILES = Table(
    "files",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("caller", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("place", Text, nullable=False),
)
Index("files_by_caller", FILES.c.caller, FILES.c.id)
Index("files_expiry", FILES.c.expires_at)

# metadata, models, problems: JSON.
BATCHES = Table(
    "batches",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("caller", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("keep_s", Double, nullable=False),
    Column("metadata", LargeBinary),
    Column("models", LargeBinary),
    Column("status", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("problems", LargeBinary),
    Column("output_id", Text),
    Column("error_id", Text),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("finalizing_at", Double),
    Column("cancelling_at", Double),
    Column("ended_at", Double),
    Column("place", Text, nullable=False),
)
Index("batches_by_caller", BATCHES.c.caller, BATCHES.c.id)
Index("batches_ended", BATCHES.c.ended_at)
IS_OPEN = "ended_at IS NULL"
Index(
    "batches_open",
    BATCHES.c.id,
    sqlite_where=text(IS_OPEN),
    postgresql_where=text(IS_OPEN),
)
