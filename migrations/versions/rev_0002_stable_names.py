"""Stable names: every object of a source's capture takes the hash of its name instead of its OID (D1, plan P2).

Revision: 0002, after 0001.
"""

from migrations.sqlfiles import SQL, run, run_file, run_steps

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _install_findings() -> None:
    query = (SQL / "0002_findings.sql").read_text(encoding="utf-8")
    run(
        "CREATE OR REPLACE FUNCTION pgtrickle._findings() RETURNS TABLE (code text, subject text, message text, hint text)\n"
        "LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $findings$\n"
        "WITH names AS (SELECT s.relid, pgtrickle.stable_name(s.relid) AS stable_name FROM (\n"
        "    SELECT source_relid AS relid FROM pgtrickle.pgt_change_tracking\n"
        "    UNION SELECT source_relid FROM pgtrickle.pgt_dependencies) s\n"
        "    JOIN pg_class c ON c.oid = s.relid),\n" + query + "$findings$;\n"
    )


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
