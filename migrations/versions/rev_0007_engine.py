"""The engine's catalog: AUTO, how rows are kept, what refreshes cost and why, the guard of stream tables (D5 to D7).

Revision: 0007, after 0006.
"""

from migrations.sqlfiles import run_file

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the guard's function; no table of a user changes."""
    run_file("0007_up")


def downgrade() -> None:
    """Take the guards off and leave every stream table of this project to be filled anew by whoever comes next."""
    run_file("0006_begin_down", "0007_down")
