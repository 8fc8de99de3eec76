"""Stream tables on Citus: servers, clusters, the engine and the rehearsals that prove it."""

__version__ = "0.1.0"
