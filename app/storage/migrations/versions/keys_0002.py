"""Names that keys had before they were renamed: nobody else may have them."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0002"
down_revision = "keys_0001"


def upgrade() -> None:
    op.create_table(
        "api_keys_former_names",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.String(32), nullable=False),
    )
