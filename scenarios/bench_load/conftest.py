"""Databases here are at the end of the chain from the start: what is captured needs the catalog."""

from scenarios.fixtures.at_head import citus_database, database

__all__ = ["citus_database", "database"]
