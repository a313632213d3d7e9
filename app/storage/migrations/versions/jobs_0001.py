"""Jobs, their requests, parts and results, webhooks, and keys of requests that have effect once."""

import sqlalchemy as sa
from alembic import op

revision = "jobs_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _make_jobs()
    op.create_table("job_requests", _job_id(), sa.Column("body", sa.LargeBinary, nullable=False))
    op.create_table(
        "job_parts",
        _job_id(),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "job_results",
        _job_id(),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.LargeBinary),
    )
    _make_webhooks()
    _make_once_keys()


def _job_id() -> "sa.Column[str]":
    key = sa.ForeignKey("jobs.id", ondelete="CASCADE")
    return sa.Column("job_id", sa.Text, key, primary_key=True)


def _make_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("inputs", sa.Integer, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("tag", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.Double),
        sa.Column("cancel", sa.Boolean, nullable=False),
        sa.Column("run_at", sa.Double),
        sa.Column("submitted_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("deadline_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("error_code", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("has_webhook", sa.Boolean, nullable=False),
    )
    _index("jobs_queued", "jobs", "priority", "tag", "id", where="state = 'queued'")
    _index("jobs_queued_by_caller", "jobs", "caller", "priority", "tag", where="state = 'queued'")
    _index("jobs_delayed", "jobs", "run_at", where="state = 'delayed'")
    _index("jobs_running", "jobs", "priority", "tag", where="state = 'running'")
    _index("jobs_deadline", "jobs", "deadline_at", where="state IN ('queued', 'delayed')")
    _index("jobs_expiry", "jobs", "expires_at", where="expires_at IS NOT NULL")
    op.create_index("jobs_by_caller", "jobs", ["caller", "id"])


def _make_webhooks() -> None:
    op.create_table(
        "job_webhooks",
        _job_id(),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double),
        sa.Column("delivered_at", sa.Double),
        sa.Column("last_error", sa.Text),
    )
    _index("job_webhooks_due", "job_webhooks", "next_at", where="next_at IS NOT NULL")


def _make_once_keys() -> None:
    op.create_table(
        "once_keys",
        sa.Column("caller", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("held_until", sa.Double),
        sa.Column("job_id", sa.Text),
        sa.Column("body", sa.LargeBinary),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_index("once_keys_expiry", "once_keys", ["expires_at"])


def _index(name: str, table: str, *columns: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, list(columns), sqlite_where=condition, postgresql_where=condition)
