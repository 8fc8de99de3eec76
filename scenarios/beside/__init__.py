"""Both engines in the same scenarios: this project's, and the public extension where a PostgreSQL has it."""
