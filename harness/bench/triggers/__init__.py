"""Capture made by hand, in the forms that are compared: its buffer, its function, its trigger, and what it wrote."""

from __future__ import annotations
