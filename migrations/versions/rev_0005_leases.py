"""Leases: who may refresh one stream table, and until when (D8, plan P6.2).

Revision: 0005, after 0004.
"""

from migrations.sqlfiles import run_file

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make ``pgtrickle.st_locks``."""
    run_file("0005_up")


def downgrade() -> None:
    """Remove it; refused while a lease is live."""
    run_file("0005_down")
