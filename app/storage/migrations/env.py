"""Run by Alembic; schema.py gives it a connection in a transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
