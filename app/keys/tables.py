"""The tables of keys, usage and the audit log. `storage/migrations` makes them."""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from app.keys.key import LIMITS

METADATA = MetaData()

KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("previous_digest", String(64), unique=True),
    Column("previous_until", Double),
    Column("hint", String(32), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("models", Text),
    Column("max_priority", Integer, nullable=False),
    *(Column(name, BigInteger) for name in LIMITS),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)

FORMER_NAMES = Table(
    "api_keys_former_names",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("key_id", String(32), nullable=False),
)

GENERATION = Table(
    "api_keys_generation",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
)

AUDIT = Table(
    "audit_log",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("actor", String(128), nullable=False),
    Column("act", String(64), nullable=False),
    Column("target", String(256), nullable=False),
    Column("details", Text, nullable=False),
    Column("request_id", String(128), nullable=False),
)

COUNTS = ("requests", "items", "failures", "cached_items", "input_tokens", "output_tokens")
SUMS = (*COUNTS, "compute_ms", "cost_nanos")

USAGE = Table(
    "usage",
    METADATA,
    Column("key_id", String(32), primary_key=True),
    Column("model", String(128), primary_key=True),
    Column("version", String(128), primary_key=True),
    Column("day", Date, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS),
    Column("compute_ms", Double, nullable=False),
    Column("cost_nanos", BigInteger, nullable=False),
    Index("usage_by_day", "day"),
)

WRITERS = Table(
    "usage_writers",
    METADATA,
    Column("writer", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
)
