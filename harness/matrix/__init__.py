"""The plan's ten-row test matrix (P7.2): each row proves its topology, works, and ends with the oracle."""
