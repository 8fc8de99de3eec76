"""Upgrades: the chain and its rehearsal."""
