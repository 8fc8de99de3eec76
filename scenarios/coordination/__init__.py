"""Whoever meets at a stream table: leases, the scheduler, DDL, repair."""
