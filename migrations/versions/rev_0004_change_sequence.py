"""The change sequence and the transaction column: a frontier becomes a horizon (D5, F19, F20, F34; plan P3).

Revision: 0004, after 0003.
"""

from migrations.sqlfiles import run_file, run_steps

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the sequence and the rule, then give each buffer its transaction column in a transaction of its own."""
    run_file("0004_up", "each_source", "0004_steps")
    run_steps("xid_up")
    run_file("each_source_end", "0004_steps_end")


def downgrade() -> None:
    """Back to a frontier that is an LSN; what it cannot say is marked ``needs_reinit``."""
    run_file("each_source", "0004_steps")
    run_steps("xid_down")
    run_file("each_source_end", "0004_steps_end", "0004_down")
