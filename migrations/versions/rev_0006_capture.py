"""Capture functions and DDL hooks: statement-level capture that lives in the database (D4, F21, F24 to F26; plan P4).

Revision: 0006, after 0005. The event triggers need a superuser.
"""

from migrations.sqlfiles import run_file, run_steps

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Install the functions, move each source to statement triggers, then listen to DDL."""
    run_file("rename_capture", "0006_capture", "each_source", "0006_steps")
    run_steps("capture_up")
    run_file("each_source_end", "0006_steps_end", "0006_hooks")


def downgrade() -> None:
    """Back to row triggers; refused where a source or a stream table is not local."""
    run_file("0006_begin_down", "0002_steps", "each_source", "0006_steps")
    run_steps("capture_down")
    run_file("each_source_end", "0006_steps_end", "0006_down", "0002_steps_end")
