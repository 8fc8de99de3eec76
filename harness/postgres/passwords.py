"""Passwords of servers: random, and sent to a server only as the SCRAM verifier that it stores."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

# Iterations make guessing a weak password slow. Ours have 192 random bits, and each connection pays for every one.
_ITERATIONS = 1
_PASSWORD_BYTES = 24


def make_password() -> str:
    """A password of 192 random bits, of characters that need no quoting anywhere."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def scram_verifier(password: str) -> str:
    """What PostgreSQL stores for ``password`` (RFC 5803): with it in ``ALTER ROLE``, no log ever sees the password."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = [base64.b64encode(part).decode("ascii") for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def write_secret(path: Path, text: str, uid: int, gid: int) -> None:
    """Write a file that only user ``uid`` can read, replacing it in one step."""

    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, no path
        file.write(text)
        if os.geteuid() == 0:
            os.fchown(descriptor, uid, gid)
    fresh.replace(path)


def password_file(passwords: Mapping[str, str], port: int) -> str:
    """The text of a libpq password file for the roles of the server on ``port``."""
    return "".join(f"*:{port}:*:{_escape(role)}:{_escape(word)}\n" for role, word in passwords.items())


def read_password_file(text: str) -> dict[str, str]:
    """The roles and passwords that `password_file` wrote."""
    found = {}
    for line in text.splitlines():
        fields = [re.sub(r"\\(.)", r"\1", field) for field in re.split(r"(?<!\\):", line)]
        found[fields[3]] = fields[4]
    return found
