"""The image of clusters in containers: found or pulled, and a data directory made of it once, copied for each node."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from harness.clusters.configuration import BASE_SETTINGS
from harness.clusters.container_runtime import Runtime, docker_errors, passing_over_missing, remove_run, remove_volume
from harness.clusters.docker import require_docker
from harness.clusters.versions import check_pair
from harness.errors import CitusMissingError, ServerStartError
from harness.logs import get_logger
from harness.postgres.configuration import FILE_NAME, hba_text
from harness.postgres.passwords import make_password, scram_verifier, write_secret
from harness.postgres.places import cache_dir, own_directory
from harness.settings import load_settings
from harness.waiting import wait_until

# Counts up when what is in a template changes, so that older ones are not used.
_FORMAT = 3
# initdb and CREATE EXTENSION take 2 s; the rest is for a machine that does much else.
_BAKE_DEADLINE_S = 120.0
# Templates outlive runs as a cache does: they have a label of their own, which no sweep of runs looks at.
TEMPLATE_LABEL = "org.pgtrickle.harness.template"
TEMPLATE_DIR = "/harness/template"
# Every address, since a cluster's network has no other members; each has to know a password of 192 bits.
_HBA = hba_text(["all"])

# Runs in the image as its user postgres. $1 is where the volume is, $2 the verifier of the superuser's password.
_BAKE = r"""
set -eu
umask 077
data="$1/data"
rm -rf "$data"
initdb --pgdata="$data" --username=postgres --auth=trust --encoding=UTF8 --locale-provider=builtin \
    --builtin-locale=C.UTF-8 --locale=C --no-sync --no-instructions >/dev/null
mkdir "$1/socket"
place="-c listen_addresses='' -c unix_socket_directories='$1/socket' -c fsync=off"
pg_ctl -D "$data" -s -w -t 60 -o "$place $3" start >&2
ask() { psql -X -v ON_ERROR_STOP=1 -h "$1/socket" -U postgres -d postgres -Atq -v verifier="$2"; }
ask "$1" "$2" <<'SQL'
CREATE EXTENSION citus;
ALTER ROLE postgres PASSWORD :'verifier';
SELECT 'harness-facts ' || json_build_object('postgres_version', split_part(current_setting('server_version'), ' ', 1),
    'citus_version', (SELECT extversion FROM pg_extension WHERE extname = 'citus'));
SQL
pg_ctl -D "$data" -s -w -m fast stop
# The one WAL segment is 16 MB of zeros after the first few hundred kB: as a hole they cost a copy nothing.
for segment in "$data"/pg_wal/0*; do
    cp --sparse=always "$segment" "$1/sparse" 2>/dev/null && mv "$1/sparse" "$segment"
done
printf '%s' "$4" > "$data/pg_hba.conf"
echo "include = '$5'" >> "$data/postgresql.conf"
rm -rf "$1/socket"
echo "harness-owner $(id -u) $(id -g)"
"""

_log = get_logger("clusters")


@dataclass(frozen=True)
class ContainerTemplate:
    """What each node of a cluster in containers is copied from.

    Attributes:
        image: its tag or digest, as it was asked for.
        image_id: which image that was.
        volume: the Docker volume that holds the data directory.
        password: the superuser's, until a copy has one of its own.
        data_volume: where the image keeps its data: a volume is mounted there.
        postgres_version, citus_version: what it runs, such as ``18.6`` and ``14.0-1``.
        uid, gid: the image's user postgres.
    """

    image: str
    image_id: str
    volume: str
    password: str = field(repr=False)
    data_volume: str
    postgres_version: str
    citus_version: str
    uid: int
    gid: int

    @property
    def owner_options(self) -> str:
        """Whose a volume in memory is, as mount options."""
        return f"uid={self.uid},gid={self.gid}"


def require_image(runtime: Runtime) -> Any:
    """The image of ``HARNESS_CITUS_IMAGE``, pulled first if it is not here and ``HARNESS_DOCKER_PULL`` allows it.

    Raises:
        CitusMissingError: it is not here, and may not or cannot be pulled.
    """
    docker = require_docker(look=False)
    image = load_settings().citus_image
    with docker_errors(f"image {image}"):
        try:
            return runtime.client.images.get(image)
        except docker.errors.ImageNotFound:
            pass
    if not load_settings().docker_pull:
        raise CitusMissingError(
            f"no clusters in containers: the image {image} is not here",
            hint=f"docker pull {image}, or HARNESS_DOCKER_PULL=1; HARNESS_CITUS_IMAGE names another",
        )
    try:
        _pull(runtime.client, image)
        return runtime.client.images.get(image)
    except docker.errors.DockerException as error:
        reason = " ".join(str(getattr(error, "explanation", None) or error).split())
        raise CitusMissingError(
            f"no clusters in containers: the image {image} is not here and cannot be pulled: {reason}",
            hint="check the name and the network; HARNESS_CITUS_IMAGE names another",
        ) from None


def _pull(client: Any, image: str) -> None:
    """Pull, with progress on standard error; layers come at the same time, their sizes add up."""
    name, _, tag = image.rpartition(":")
    repository, tag = (image, "latest") if not name or "/" in tag else (name, tag)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    sizes: dict[str, tuple[int, int]] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"pulling {image}", total=None)
        for event in client.api.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in event:
                docker = require_docker(look=False)
                raise docker.errors.DockerException(event["error"])
            detail = event.get("progressDetail") or {}
            if event.get("status") == "Downloading" and detail.get("total"):
                sizes[event["id"]] = (int(detail["current"]), int(detail["total"]))
                done, total = (sum(each) for each in zip(*sizes.values(), strict=True))
                progress.update(task, completed=done, total=total)
    _log.info("image pulled", image=image)


def _data_volume(image: Any) -> str:
    """Where the image keeps its data: the volume that it declares around PGDATA, else the directory above that."""
    config = image.attrs.get("Config") or {}
    env = dict(entry.partition("=")[::2] for entry in config.get("Env") or [])
    pgdata = PurePosixPath(env.get("PGDATA") or "/var/lib/postgresql/data")
    declared = [PurePosixPath(path) for path in config.get("Volumes") or {}]
    return str(next((path for path in declared if path == pgdata or path in pgdata.parents), pgdata.parent))


def fetch_container_template(runtime: Runtime) -> ContainerTemplate:
    """The template of the image, made now (in about 3 s) if there is none yet.

    Like the local one it is a cache that stays: a labelled volume, and its password in a file of mode 0600 in the
    cache directory. The template of an image that had this tag before is removed.

    Raises:
        CitusMissingError: the image is not here, or has no Citus.
        UnsupportedVersionError: its PostgreSQL and Citus are no supported pair.
        ServerStartError: the container that makes it failed; its last words are in ``log_tail``.
    """
    image = require_image(runtime)
    templates = own_directory(cache_dir() / "templates")
    # Another user or cache directory on the same daemon has another volume: its password is known there only.
    identity = f"{_FORMAT}\0{image.id}\0{platform.node()}\0{templates}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    record = templates / f"container-{key}.json"
    with FileLock(templates / "container.lock", thread_local=False):
        template = _recorded(runtime, record)
        if template is None:
            template = _bake(runtime, image, f"harness-template-{key}")
            write_secret(record, json.dumps(asdict(template)), os.geteuid(), os.getegid())
            _remove_predecessors(runtime, template, templates)
    major = int(template.postgres_version.partition(".")[0])
    check_pair(major, template.citus_version, where=f"image {template.image}")
    return template


def _recorded(runtime: Runtime, record: Path) -> ContainerTemplate | None:
    docker = require_docker(look=False)
    try:
        template = ContainerTemplate(**json.loads(record.read_text(encoding="utf-8")))
        runtime.client.volumes.get(template.volume)
    except (OSError, ValueError, TypeError, docker.errors.NotFound):
        return None
    return template


def _remove_predecessors(runtime: Runtime, template: ContainerTemplate, templates: Path) -> None:
    for record in templates.glob("container-*.json"):
        other: dict[str, object] = json.loads(record.read_text(encoding="utf-8"))
        if other.get("image") != template.image or other.get("volume") == template.volume:
            continue
        # One that a cluster still uses stays, and so does its record: the next template tries again.
        with contextlib.suppress(require_docker(look=False).errors.APIError):
            passing_over_missing(runtime.client.volumes.get(str(other["volume"])).remove)
            record.unlink()


def _bake(runtime: Runtime, image: Any, volume: str) -> ContainerTemplate:
    """Fill a new volume: initdb, the extension, a password; the volume is removed again if that fails."""
    name = load_settings().citus_image
    password = make_password()
    place = _data_volume(image)
    settings = " ".join(f"-c {key}={value}" for key, value in BASE_SETTINGS.items())
    command = ["sh", "-c", _BAKE, "bake", place, scram_verifier(password), settings, _HBA, FILE_NAME]
    with docker_errors(f"the template of {name}"):
        _remove_unfinished(runtime, volume)
        try:
            runtime.client.volumes.create(volume, labels={TEMPLATE_LABEL: image.id})
            # The image's own directory is copied into the empty volume with its owner, so its user may write there.
            container = runtime.client.containers.create(
                image.id,
                entrypoint=command[:1],
                command=command[1:],
                user="postgres",
                labels={**runtime.labels, TEMPLATE_LABEL: volume},
                network_mode="none",
                healthcheck={"test": ["NONE"]},
                volumes={volume: {"bind": place, "mode": "rw"}},
            )
            container.start()
            facts = _finish(container, name)
            remove_run(runtime)
        except BaseException:
            # By label: an interrupted call does not tell what the daemon made.
            remove_run(runtime)
            remove_volume(runtime.client, volume)
            raise
    _log.info("template made", image=name, **facts)
    return ContainerTemplate(name, image.id, volume, password, place, **facts)


def _remove_unfinished(runtime: Runtime, volume: str) -> None:
    """What a run that was killed while it made this template left; we hold the lock."""
    makers: dict[str, str | list[str] | bool] = {"label": f"{TEMPLATE_LABEL}={volume}"}
    for container in runtime.client.containers.list(all=True, filters=makers, ignore_removed=True):
        passing_over_missing(lambda one=container: one.remove(force=True, v=True))  # type: ignore[misc]
    remove_volume(runtime.client, volume)


def _finish(container: Any, image: str) -> dict[str, Any]:
    """Wait for its end; what it said of versions and of its user, as a template has it."""

    def ended() -> bool:
        container.reload()
        return str(container.status) in ("exited", "dead")

    wait_until(f"the template of {image}", ended, deadline_s=_BAKE_DEADLINE_S, poll_s=0.05)
    said = container.logs().decode("utf-8", errors="replace")
    facts = re.search(r"^harness-facts (\{.*\})$", said, re.MULTILINE)
    owner = re.search(r"^harness-owner (\d+) (\d+)$", said, re.MULTILINE)
    if container.attrs["State"]["ExitCode"] == 0 and facts and owner:
        return {**json.loads(facts[1]), "uid": int(owner[1]), "gid": int(owner[2])}
    if re.search(r'extension "citus"|access file "citus"|citus extension is not found', said):
        raise CitusMissingError(
            f"no clusters in containers: the image {image} has no Citus", hint="HARNESS_CITUS_IMAGE names another"
        )
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "it wrote nothing")
    raise ServerStartError(
        f"the image {image} could not be made into a template: {last.strip()}",
        hint="it must have PostgreSQL's programs on PATH and a user postgres, as the official image has",
        log_tail=said,
    )
