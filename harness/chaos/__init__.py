"""Chaos runs: writers, refreshes, DDL, moves and faults at once, and at the end every row is accounted for."""
