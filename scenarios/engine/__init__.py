"""Scenarios of one refresh: what it chooses, what it applies, what becomes of it when something breaks."""
