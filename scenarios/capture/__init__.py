"""Capture by placement: what each kind of statement leaves in a change buffer."""
