"""Captured rows without a number of their own, which nothing reads from 0004 on and each row paid for (docs/tuning.md).

Revision: 0012, after 0011.
"""

from migrations.sqlfiles import run_file

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Buffers that are made from here on draw no number; no table that is there changes."""
    run_file("0012_up")


def downgrade() -> None:
    """Buffers are made as before. What 0009 refuses on its way down is asked for first, as 0010 and 0011 do."""
    run_file("0009_begin_down", "0012_down")
