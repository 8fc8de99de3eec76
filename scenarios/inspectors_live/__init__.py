"""Scenarios of the inspectors that tell what a cluster does now: each state is really made, each answer compared."""
