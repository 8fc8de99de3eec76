"""Capture on a shard without dynamic SQL: the function knows each shard's buffer shard (docs/tuning.md).

Revision: 0011, after 0010.
"""

from migrations.sqlfiles import run_file

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the functions of distributed sources anew; no table of a user changes."""
    run_file("0011_up", "0011_renew")


def downgrade() -> None:
    """The functions of before. What 0009 refuses on its way down is asked for first, as 0010 does."""
    run_file("0009_begin_down", "0011_down", "0011_renew", "0011_end_down")
