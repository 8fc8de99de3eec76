"""Leases at work: taken, kept and checked in the database; a refresh that lost its lease cannot commit (D8).

Revision: 0008, after 0007.
"""

from migrations.sqlfiles import run_file

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the functions and the checks; no table of a user changes."""
    run_file("0008_up")


def downgrade() -> None:
    """Remove them; refused while a lease is live."""
    run_file("0008_down")
