"""Databases here are at the end of the chain from the start: `upgrade` in a test finds nothing to do."""

from scenarios.fixtures.at_head import citus_database, database

__all__ = ["citus_database", "database"]
