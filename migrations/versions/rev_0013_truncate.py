"""TRUNCATE of a distributed source whose shards were moved: the shards' own triggers leave it alone (docs/findings.md).

And capture of one source is made by one session at a time.

Revision: 0013, after 0012.
"""

from migrations.sqlfiles import run_file

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the functions of distributed sources anew; no table of a user changes."""
    run_file("0013_up", "0011_renew")


def downgrade() -> None:
    """The functions of before. What 0009 refuses on its way down is asked for first, as 0010 to 0012 do."""
    run_file("0009_begin_down", "0013_down", "0011_renew")
