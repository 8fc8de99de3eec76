"""A data directory that already holds ``CREATE EXTENSION citus``, made once and copied for each node."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import LiteralString

from filelock import FileLock

from harness.clusters.configuration import BASE_SETTINGS
from harness.postgres.identity import SystemUser, server_user
from harness.postgres.installations import Installation
from harness.postgres.passwords import write_secret
from harness.postgres.places import cache_dir, own_directory
from harness.postgres.server import Server
from harness.postgres.template import Template, copy_template, make_server_directory

# Counts up when what is in a template changes, so that older ones are not used.
_FORMAT = 1

# CREATE EXTENSION gives a server an identity of its own; copies of one template must not share it. The only other
# trace of the machine in a fresh extension is pg_dist_local_group, which citus_add_node sets on each worker.
NEW_IDENTITY: LiteralString = """
    UPDATE pg_catalog.pg_dist_node_metadata
       SET metadata = metadata || jsonb_build_object('server_id', pg_catalog.gen_random_uuid()::text)
"""


def fetch_citus_template(installation: Installation) -> Template:
    """The template with Citus of this installation and user, made now (in about 2 s) if there is none yet.

    With it a node needs no ``CREATE EXTENSION``, which is 0.2 to 0.36 s of a cluster's start (F35). Each copy must
    run `NEW_IDENTITY` once.

    Args:
        installation: one with a supported Citus.

    Raises:
        ServerStartError: the server that makes it did not start.
        DiskFullError: there is no room.
    """
    user = server_user()
    library = next(iter(sorted(installation.libdir.glob("citus.*"))), installation.libdir)
    stamps = [
        (path, path.stat().st_size, path.stat().st_mtime_ns) for path in (installation.program("postgres"), library)
    ]
    identity = f"{_FORMAT}\0{installation.citus_version}\0{stamps}\0{user.uid}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    templates = own_directory(cache_dir() / "templates")
    place = templates / f"{installation.version}-citus-{installation.citus_version}-{key}"
    if not place.exists():
        with FileLock(templates / f"{place.name}.lock", thread_local=False):
            if not place.exists():
                for left in templates.glob(f"{place.name}.building-*"):  # a killed run's; we hold the lock
                    shutil.rmtree(left, ignore_errors=True)
                building = own_directory(place.with_name(f"{place.name}.building-{secrets.token_hex(4)}"))
                try:
                    password = _bake(installation, user, building)
                    write_secret(building / "password", password, os.geteuid(), os.getegid())
                    building.rename(place)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
    return Template(place / "data", (place / "password").read_text(encoding="utf-8"))


def _bake(installation: Installation, user: SystemUser, building: Path) -> str:
    """Fill ``building/data`` and return the superuser's password in it."""
    # New WAL segments as holes: zeros that nobody reads would be copied for every node.
    settings = {**BASE_SETTINGS, "wal_init_zero": "off", "wal_recycle": "off"}
    server = Server.create(installation, name="citus-template", settings=settings)
    try:
        server.start()
        server.sql("CREATE EXTENSION citus")
        server.stop("fast")
        target = make_server_directory(building / "data", user)
        copy_template(Template(server.data_dir, server.password), target, user)
        return server.password
    finally:
        server.destroy()
