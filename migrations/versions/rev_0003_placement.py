"""Placement: local, reference or distributed, of sources and of stream tables (plan P1.3, P5.1).

Revision: 0003, after 0002.
"""

from migrations.sqlfiles import run_file

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and fill them from what Citus says, if it is there."""
    run_file("0003_up")


def downgrade() -> None:
    """Remove the columns."""
    run_file("0003_down")
