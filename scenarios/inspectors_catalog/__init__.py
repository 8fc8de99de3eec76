"""Inspectors of metadata and sizes, each asserted by value against a query that shares nothing with it."""
