"""Writers and refreshes at the same time; what a cut takes and what it leaves."""
