"""Inspectors: the standard cluster, and what holds for all of them."""
