"""The migration chain as the harness drives it: run it, ask it, take an installation over."""
