"""Scenarios: whatever dies, hangs, is moved or fills up, a stream table is right one refresh later."""
