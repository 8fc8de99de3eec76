"""Rehearses the public extension's own ``ALTER EXTENSION pg_trickle UPDATE``, step by step, on a copy."""
