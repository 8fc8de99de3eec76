"""Stable names: every object of a source's capture takes the hash of its name instead of its OID (D1, plan P2).

Revision: 0002, after 0001.
"""

from migrations.sqlfiles import SQL, run, run_file, run_steps

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _install_findings() -> None:
    # The preflight runs the query in the middle by itself, so its function is put together here.
    parts = ("0002_findings_head", "0002_findings", "0002_findings_tail")
    run("".join((SQL / f"{name}.sql").read_text(encoding="utf-8") for name in parts))


def upgrade() -> None:
    """Add the columns, move each source in a transaction of its own, then hold the columns to it."""
    run_file("0002_up", "rename_capture", "0002_steps", "each_source")
    _install_findings()
    run_file("0002_begin")
    run_steps("stable_up")
    run_file("0002_end", "each_source_end", "0002_steps_end", "rename_capture_end")


def downgrade() -> None:
    """Move each source back, then remove the columns."""
    run_file("rename_capture", "0002_steps", "each_source")
    run_steps("stable_down")
    run_file("0002_down", "each_source_end", "0002_steps_end", "rename_capture_end", "0002_names_end")
