"""The tables are what the migrations make, down to the conditions of their indexes."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from app.jobs.sql_queue import FIRST_DUE, LINE
from app.jobs.tables import JOBS, METADATA

OURS = set(METADATA.tables)


def is_ours(thing, name, kind, reflected, other):
    return kind != "table" or name in OURS


def test_the_migrated_schema_is_that_of_the_tables(engines):
    with engines.writing() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "include_object": is_ours},
        )
        assert compare_metadata(context, METADATA) == []


def test_indexes_have_the_conditions_that_statements_have(engines):
    """Alembic does not compare them, and an index with another condition is not used."""
    catalog = (
        "SELECT indexname, indexdef FROM pg_indexes"
        if engines.is_postgres
        else "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    )
    with engines.reader.connect() as connection:
        made = {row[0]: row[1] for row in connection.execute(text(catalog))}
    dialect = "postgresql" if engines.is_postgres else "sqlite"
    for index in JOBS.indexes:
        condition = index.dialect_options[dialect]["where"]
        assert ("WHERE" in made[index.name]) == (condition is not None), index.name


def test_the_queue_is_read_by_its_index(engines):
    """SQLite's plan is the same however many jobs there are; PostgreSQL's goes by their number."""
    if engines.is_postgres:
        return
    with engines.reader.connect() as connection:
        for query in (*FIRST_DUE, LINE):
            compiled = query.compile(connection)
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {compiled}", tuple(compiled.params.values())
            )
            told = " ".join(row[3] for row in plan)
            assert "USING COVERING INDEX jobs_" in told or "USING INDEX jobs_" in told, told
            assert "TEMP B-TREE" not in told, told
