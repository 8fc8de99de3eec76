"""Settings from the environment: ``HARNESS_*``, and ``CITUS_*`` for what a cluster is made of."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from harness.errors import BadInputError


class Settings(BaseSettings):
    """What the environment says. Every field can be set as ``HARNESS_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="HARNESS_", env_ignore_empty=True, extra="ignore")

    pg_bindir: Path | None = Field(None, description="directory of PostgreSQL's binaries; overrides the search")
    pg_user: str | None = Field(None, description="system user that servers run as when the harness runs as root")
    run_dir: Path | None = Field(None, description="where servers live; default: a private place under /tmp")
    cache_dir: Path | None = Field(None, description="initdb templates and copied binaries; default: beside run_dir")
    cluster: str | None = Field(
        None, description="what clusters are made of: local, containers, or the DSN of an existing coordinator"
    )
    node_addresses: str = Field(
        "", description="how nodes are reached from here, where pg_dist_node has other names: name:port=host:port, ..."
    )
    citus_image: str = Field("citusdata/citus:14.1.0", min_length=1, description="the image of clusters in containers")
    docker_pull: bool = Field(False, description="whether an image that is not here may be pulled")
    docker_data: Literal["memory", "volume"] = Field(
        "memory", description="where containers keep their data: in memory, or in volumes on the daemon's disk"
    )
    docker_publish: str = Field(
        "127.0.0.1", description="address of the Docker machine on which containers' ports are published"
    )
    require_citus: bool = Field(False, description="a missing Citus fails the tests instead of skipping them")
    start_timeout_s: float = Field(30.0, gt=0, description="deadline for a server to become ready, in seconds")
    dsn: SecretStr | None = Field(None, description="the database that `harness migrate` and `alembic` work on")
    rehearse_dsn: SecretStr | None = Field(None, description="the database that `harness rehearse` copies, as --dsn")
    inspect_key: SecretStr | None = Field(
        None, description="inspectors show tenants as hashes made with this key; without it not at all"
    )
    extension_scripts: str = Field(
        "", description="directories with more of pg_trickle's scripts, a colon between two, as --extension-scripts"
    )
    old_pg_bindir: Path | None = Field(
        None, description="directory of a PostgreSQL with pg_trickle 0.2, for the scenarios that upgrade a real one"
    )
    log_level: str = Field("warning", description="debug, info, warning or error; logs go to stderr")
    log_json: bool = Field(False, description="logs as one JSON document a line")


class CitusSettings(BaseSettings):
    """What a cluster is made of. Every field can be set as ``CITUS_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix="CITUS_", env_ignore_empty=True, extra="ignore")

    workers: int = Field(2, ge=0, le=32, description="how many workers beside the coordinator")
    shard_count: int = Field(
        4, ge=1, le=1024, description="citus.shard_count; 4 keeps refreshes cheap on few cores (F30)"
    )


def _first_problem(error: ValidationError, prefix: str) -> str:
    problem = error.errors()[0]
    name = prefix + "_".join(str(part) for part in problem["loc"]).upper()
    return f"{name}={problem.get('input')!r} cannot be used: {problem['msg']}"


@functools.cache
def load_settings() -> Settings:
    """Read ``HARNESS_*`` once.

    Raises:
        BadInputError: a value cannot be used; the message names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise BadInputError(_first_problem(error, "HARNESS_"), hint="unset it or give it a valid value") from None


@functools.cache
def load_citus_settings() -> CitusSettings:
    """Read ``CITUS_*`` once.

    Raises:
        BadInputError: a value cannot be used; the message names the variable.
    """
    try:
        return CitusSettings()
    except ValidationError as error:
        raise BadInputError(_first_problem(error, "CITUS_"), hint="unset it or give it a valid value") from None
