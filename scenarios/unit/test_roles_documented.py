"""The entry point's variables and their table in ``docs/roles.md`` are the same."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The official image's own, and the harness': known to the entry point, and of no meaning to it.
FOREIGN = {"CITUS_VERSION", "CITUS_WORKERS"}


def test_every_variable_of_the_entry_point_is_documented() -> None:
    table = (ROOT / "docs" / "roles.md").read_text(encoding="utf-8").split("## Variables", 1)[1].split("\n## ", 1)[0]
    documented = set(re.findall(r"^\| `(CITUS_[A-Z_]+)`", table, re.MULTILINE))
    text = (ROOT / "docker" / "lib" / "input.sh").read_text(encoding="utf-8")
    known = re.search(r"known_variables='([^']*)'", text)
    assert known is not None
    assert documented == set(known[1].split()) - FOREIGN


def test_every_question_of_the_entry_point_is_a_file_and_the_other_way_round() -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docker" / "lib").glob("*.sh"))
    asked = set(re.findall(r" ([a-z_]+\.sql)\b", scripts)) | {
        f"health_{state}.sql" for state in ("plain", "coordinator", "worker")
    }
    assert asked == {path.name for path in (ROOT / "docker" / "sql").glob("*.sql")}
