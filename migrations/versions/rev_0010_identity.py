"""Who the database and its nodes are: a history that is not the one a stream table stopped in is noticed (D5, F35).

Revision: 0010, after 0009.
"""

from migrations.sqlfiles import run_file

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Note which database this is, and make the place where every node notes refreshes; no table of a user changes."""
    run_file("0010_up")


def downgrade() -> None:
    """Forget both. What 0009 refuses on its way down is asked for first: `harness st repair` needs this revision."""
    run_file("0009_begin_down", "0010_down")
