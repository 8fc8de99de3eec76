"""The baseline: pg_trickle 0.2's catalog as a real one was seen (D2, baseline.md).

Revision: 0001, the first.
"""

from migrations.sqlfiles import run_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the empty catalog and the functions that its objects call."""
    run_file("0001_catalog", "0001_hash", "0001_views")


def downgrade() -> None:
    """Remove all of it; refused while a stream table is left."""
    run_file("0001_down")
