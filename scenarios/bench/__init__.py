"""``harness bench`` on real servers."""
