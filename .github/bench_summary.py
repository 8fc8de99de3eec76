"""Two files of pytest-benchmark, before and now, as a table for a job's page: what became slower, what faster."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.report.markdown import Column, Problem, Summary, Table, render
from harness.report.text import NOTHING, show_count, show_ms

# Medians on a machine that others share vary by a third from run to run; half as much again is worth a look.
WORTH_A_LOOK = 1.5


def medians_ms(path: Path) -> dict[str, float]:
    """The median of each benchmark in milliseconds; empty where the file is missing or cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return {one["fullname"].partition("/")[2]: one["stats"]["median"] * 1000 for one in found}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def compare(before: dict[str, float], now: dict[str, float]) -> Summary:
    """The comparison; a smoke test, so that what is slower is shown and fails nothing."""
    rows, problems = [], []
    for name in sorted({*before, *now}):
        ratio = now[name] / before[name] if before.get(name) and name in now else None
        shown = f"{ratio:.2f}" if ratio is not None else NOTHING
        rows.append((name, show_ms(before.get(name)), show_ms(now.get(name)), shown))
        if ratio is not None and ratio >= WORTH_A_LOOK:
            problems.append(Problem(f"{ratio:.2f} times as long as before", name, "run it again: tox -e bench"))
    known = [name for name in now if name in before]
    verdict = f"{show_count(len(now), 'benchmark')}, {len(known)} of them compared with what was before; "
    verdict += f"{len(problems)} took at least {WORTH_A_LOOK} times as long." if known else "nothing to compare with."
    columns = (
        Column("benchmark", is_name=True),
        *(Column(name, is_number=True) for name in ("before", "now", "ratio")),
    )
    table = Table("Medians of one run each", columns, tuple(rows))
    outcome = "passed" if now else "failed"
    return Summary("bench smoke", outcome, verdict, problems=tuple(problems), tables=(table,))


def main(before: Path, now: Path) -> None:
    """Print the page; exit with 1 where there is nothing to show."""
    measured = medians_ms(now)
    sys.stdout.buffer.write(render(compare(medians_ms(before), measured)).encode())
    sys.exit(0 if measured else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
