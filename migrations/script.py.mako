"""${message}.

Revision: ${up_revision}, after ${down_revision | comma,n}.
"""

from migrations.sqlfiles import run_file

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Go up."""
    run_file("${up_revision}_up")


def downgrade() -> None:
    """Go down."""
    run_file("${up_revision}_down")
