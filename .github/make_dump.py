"""Makes a dump to rehearse on: an installation half way up the chain, with changes pending."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from harness.chain import runner
from harness.postgres import temporary_server
from harness.rehearsal.demonstration import build_demonstration

REVISION = "0004"


def main(target: Path) -> None:
    """Build the demonstration, take it to `REVISION`, and dump it."""
    with temporary_server(name="dumped") as server:
        server.create_database("shop")
        runner.upgrade(server.dsn("shop"), "0001")
        with server.connect("shop") as connection:
            build_demonstration(connection, rows=20_000, seed=1)
        runner.upgrade(server.dsn("shop"), REVISION)
        server.run("pg_dump", "--format=custom", "--file=shop.dump", dbname="shop")
        shutil.copyfile(server.scratch_dir / "shop.dump", target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
