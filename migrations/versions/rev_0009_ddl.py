"""DDL on a source: what each query names is known, new names are followed, what leaves is swept (F24 to F26).

Revision: 0009, after 0008. The event triggers need a superuser.
"""

from migrations.sqlfiles import run_file

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Write down what each stream table names, and let the hooks know; no table of a user changes."""
    run_file("0009_references", "0009_names", "0009_capture", "0009_repair", "0009_hooks")


def downgrade() -> None:
    """The hooks of 0006 again; what was written down goes. Refused while a source's capture does not fit it."""
    run_file("0009_begin_down", "0006_capture", "0006_hooks", "0009_down")
