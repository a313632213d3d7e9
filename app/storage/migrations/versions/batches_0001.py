"""Files and batches."""

import sqlalchemy as sa
from alembic import op

revision = "batches_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
    )
    op.create_index("files_by_caller", "files", ["caller", "id"])
    op.create_index("files_expiry", "files", ["expires_at"])
    op.create_table(
        "batches",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("input_file_id", sa.Text, nullable=False),
        sa.Column("completion_window", sa.Text, nullable=False),
        sa.Column("keep_s", sa.Double, nullable=False),
        sa.Column("metadata", sa.LargeBinary),
        sa.Column("models", sa.LargeBinary),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("completed", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("problems", sa.LargeBinary),
        sa.Column("output_id", sa.Text),
        sa.Column("error_id", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("in_progress_at", sa.Double),
        sa.Column("finalizing_at", sa.Double),
        sa.Column("cancelling_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("place", sa.Text, nullable=False),
    )
    op.create_index("batches_by_caller", "batches", ["caller", "id"])
    op.create_index("batches_ended", "batches", ["ended_at"])
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "batches_open", "batches", ["id"], sqlite_where=is_open, postgresql_where=is_open
    )
