"""The pytest plugin, in projects that are not ours."""
