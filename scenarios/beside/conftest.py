"""Databases of this project's engine are at the end of the chain from the start."""

from scenarios.fixtures.at_head import citus_database, database

__all__ = ["citus_database", "database"]
