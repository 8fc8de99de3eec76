"""Fixture plugins; they live in scenarios/fixtures."""

pytest_plugins = [
    "scenarios.fixtures.servers",
    "scenarios.fixtures.clusters",
    "scenarios.fixtures.rehearsals",
    "scenarios.fixtures.properties",
    "scenarios.fixtures.inspected",
    "scenarios.fixtures.engines",
]
