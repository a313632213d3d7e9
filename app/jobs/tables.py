"""The tables of jobs, as the migrations `jobs_*` make them (a test compares the two).

What is large or changes apart from the rest has a table of its own, so that a claim rewrites a
small row. Indexes of the queue hold queued rows alone: their states are literals, here and in
statements, because SQLite uses such an index for no bound parameter.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

METADATA = MetaData()


def _id_of_job() -> "Column[str]":
    return Column("job_id", Text, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)


JOBS = Table(
    "jobs",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("caller", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text),
    Column("priority", SmallInteger, nullable=False),
    Column("inputs", Integer, nullable=False),
    Column("done", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("tag", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("owner", Text),
    Column("lease_until", Double),
    Column("cancel", Boolean, nullable=False),
    Column("run_at", Double),
    Column("submitted_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("deadline_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("has_webhook", Boolean, nullable=False),
)


def _index(name: str, *columns: str, where: str) -> None:
    condition = text(where)
    Index(
        name,
        *(JOBS.c[column] for column in columns),
        sqlite_where=condition,
        postgresql_where=condition,
    )


_index("jobs_queued", "priority", "tag", "id", where="state = 'queued'")
_index("jobs_queued_by_caller", "caller", "priority", "tag", where="state = 'queued'")
_index("jobs_delayed", "run_at", where="state = 'delayed'")
_index("jobs_running", "priority", "tag", where="state = 'running'")
_index("jobs_deadline", "deadline_at", where="state IN ('queued', 'delayed')")
_index("jobs_expiry", "expires_at", where="expires_at IS NOT NULL")
Index("jobs_by_caller", JOBS.c.caller, JOBS.c.id)

REQUESTS = Table(
    "job_requests", METADATA, _id_of_job(), Column("body", LargeBinary, nullable=False)
)

PARTS = Table(
    "job_parts",
    METADATA,
    _id_of_job(),
    Column("position", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

# body: null where it is in a file, whose name has the fence.
RESULTS = Table(
    "job_results",
    METADATA,
    _id_of_job(),
    Column("fence", Integer, nullable=False),
    Column("size", Integer, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("body", LargeBinary),
)

# next_at: null before the job has ended, and when there is nothing more to try.
WEBHOOKS = Table(
    "job_webhooks",
    METADATA,
    _id_of_job(),
    Column("url", Text, nullable=False),
    Column("secret", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Double),
    Column("delivered_at", Double),
    Column("last_error", Text),
    Index("job_webhooks_due", "next_at", sqlite_where=text("next_at IS NOT NULL"),
          postgresql_where=text("next_at IS NOT NULL")),
)  # fmt: skip

# body: what was answered, once it was; job_id: of a job that was submitted.
ONCE = Table(
    "once_keys",
    METADATA,
    Column("caller", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("owner", Text),
    Column("held_until", Double),
    Column("job_id", Text),
    Column("body", LargeBinary),
    Column("expires_at", Double, nullable=False),
    Index("once_keys_expiry", "expires_at"),
)
