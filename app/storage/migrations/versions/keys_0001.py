"""API keys, and the number that counts their changes."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0001"
down_revision = None

LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent_requests",
    "daily_requests",
    "daily_tokens",
    "monthly_requests",
    "monthly_tokens",
    "monthly_budget_nanos",
)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("previous_digest", sa.String(64), unique=True),
        sa.Column("previous_until", sa.Double),
        sa.Column("hint", sa.String(32), nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("models", sa.Text),
        sa.Column("max_priority", sa.Integer, nullable=False),
        *(sa.Column(name, sa.BigInteger) for name in LIMITS),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
    )
    generation = op.create_table(
        "api_keys_generation",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(generation, [{"id": 1, "generation": 0}])
