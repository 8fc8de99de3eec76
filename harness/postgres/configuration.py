"""What a server is told: its settings, each with its reason, and who may log in how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInputError

# Included last from postgresql.conf; ALTER SYSTEM still wins over it.
FILE_NAME = "harness.conf"
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)?")
# What keeps servers apart is ours to decide.
_OWN_SETTINGS = {
    "port": "pass port= instead",
    "listen_addresses": "servers listen on loopback only",
    "unix_socket_directories": "the socket's directory is private and chosen for its length",
    "unix_socket_permissions": "the socket is private",
    "data_directory": "the server lives in its own directory",
    "hba_file": "every role logs in with its password",
    "external_pid_file": "the server is found by its own pid file",
    "logging_collector": "the log is one file, see Server.log",
    "dynamic_shared_memory_type": "nothing may stay outside the server's directory",
}
_LOOPBACK = ("127.0.0.1/32", "::1/128")
_ONLY_LOOPBACK = "loopback only: nobody else on the network gets to see a test server"


def hba_text(addresses: Sequence[str] = _LOOPBACK) -> str:
    """Who may log in how: every way in asks for a password; no line trusts anybody, replication included.

    Args:
        addresses: from where beside the socket, as ``pg_hba.conf`` writes them.
    """
    lines = []
    for database in ("all", "replication"):
        lines.append(f"local {database} all scram-sha-256")
        lines += [f"host {database} all {address} scram-sha-256" for address in addresses]
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Setting:
    """One setting and why it is so."""

    name: str
    value: str
    reason: str


def _one_of_a_list(element: str) -> str:
    return '"' + element.replace('"', '""') + '"'


def _local_place(port: int, socket_dir: Path) -> tuple[Setting, ...]:
    return (
        Setting("listen_addresses", "127.0.0.1", _ONLY_LOOPBACK),
        Setting("port", str(port), "leased by lock and bind test, the same after a restart"),
        Setting(
            "unix_socket_directories", _one_of_a_list(str(socket_dir)), "private, and short enough for a socket's path"
        ),
    )


def _container_place(port: int) -> tuple[Setting, ...]:
    return (
        Setting("listen_addresses", "*", "the cluster's own network; on the host it is published on loopback only"),
        Setting("port", str(port), "the container has all ports for itself"),
        Setting("unix_socket_directories", "", "all come over the network, with a password"),
    )


def _defaults(name: str) -> tuple[Setting, ...]:
    return (
        Setting("unix_socket_permissions", "0700", "the server's own user (and root) only"),
        Setting("cluster_name", name, "names the server in the process list and in its standbys' connections"),
        Setting("password_encryption", "scram-sha-256", "a password set later is stored as SCRAM as well"),
        Setting(
            "wal_init_zero",
            "off",
            "filling a new WAL segment with zeros stalled all writers for 43 ms, and a rehearsal would blame the chain",
        ),
        Setting(
            "fsync",
            "off",
            "crashes here are killed processes, whose writes the kernel keeps; full_page_writes stays on, since a kill "
            "can tear a page, and so does synchronous_commit, or a kill would lose commits",
        ),
        Setting(
            "dynamic_shared_memory_type",
            "mmap",
            "files in the data directory, gone with it after a kill; POSIX segments would stay in /dev/shm, which is "
            "64 MB small in a container",
        ),
        Setting("timezone", "UTC", "output does not depend on the machine"),
        Setting("log_timezone", "UTC", "the log compares with the harness's own log"),
        Setting("lc_messages", "C", "the log is in English everywhere"),
        Setting("logging_collector", "off", "the log is one file that the harness opened before the start"),
        Setting(
            "log_line_prefix", "%m [%p] %q%u@%d %a %e ", "when, which process, who, and the SQLSTATE to search for"
        ),
        Setting("log_checkpoints", "off", "checkpoints of a short-lived server are no news"),
    )


def quote_value(name: str, value: str) -> str:
    """A setting's value as the configuration file wants it.

    Raises:
        BadInputError: it has a line break or a zero byte, which that file cannot hold.
    """
    if any(character in value for character in "\n\r\0"):
        raise BadInputError(
            f"the value {value!r} of setting {name} has a line break", hint="settings are one line each"
        )
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def check_settings(settings: Mapping[str, str]) -> None:
    """Make sure that ``settings`` can be written and leave alone what is ours.

    Raises:
        BadInputError: a name that is none, a value with a line break, or a setting that is not the caller's.
    """
    for name, value in settings.items():
        if not _SETTING_NAME.fullmatch(name):
            raise BadInputError(f"{name!r} is no name of a setting", hint="such as work_mem or citus.shard_count")
        if name.lower() in _OWN_SETTINGS:
            raise BadInputError(f"setting {name} cannot be changed", hint=_OWN_SETTINGS[name.lower()])
        quote_value(name, value)


def render(name: str, port: int, socket_dir: Path | None, settings: Mapping[str, str]) -> str:
    """The text of the configuration file: ours with reasons, then the caller's.

    Args:
        name: the server's.
        port: where it listens.
        socket_dir: where its socket is; None: it runs in a container and has none.
        settings: the caller's.
    """
    lines = []
    place = _container_place(port) if socket_dir is None else _local_place(port, socket_dir)
    for setting in (*place, *_defaults(name)):
        lines += [f"# {setting.reason}", f"{setting.name} = {quote_value(setting.name, setting.value)}"]
    if settings:
        lines.append("# asked for by the caller")
    lines += [f"{key} = {quote_value(key, value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"
