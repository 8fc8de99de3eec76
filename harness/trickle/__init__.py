"""Stream tables: so far their names; the engine comes next."""
