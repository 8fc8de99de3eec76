"""The migration chain: imports nothing from ``harness``; what it needs is frozen beside it."""
