"""The property test: random schemas, queries and statements; the oracle after each refresh."""
