"""Programs of an installation, run against a server: psql, pg_dump, pgbench."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from harness.errors import ServerError, WaitTimeoutError
from harness.logs import redact
from harness.postgres.identity import SystemUser, child_environment, run_process


def run_program(
    program: Path,
    *arguments: str | Path,
    node: str,
    user: SystemUser,
    cwd: Path,
    variables: dict[str, str],
    text_input: str | None,
    check: bool,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    """Run ``program`` as ``user`` to its end.

    Args:
        program: the program's path.
        arguments: never a password.
        node: the server's name, for errors.
        user: as whom.
        cwd: where it runs; also its home.
        variables: ``PG*`` variables that lead to the server.
        text_input: what it reads from stdin; None: nothing.
        check: whether a failure raises.
        timeout_s: how long it may take, in seconds.

    Raises:
        ServerError: it failed or could not be run.
        WaitTimeoutError: it took too long, and was killed.
    """
    try:
        done = run_process(
            [program, *arguments],
            user,
            cwd=cwd,
            environment=child_environment(cwd, variables),
            text_input=text_input,
            timeout_s=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise WaitTimeoutError(f"{program.name} on {node}", elapsed_s=timeout_s) from None
    except OSError as error:
        raise ServerError(f"{program} could not be run: {error.strerror}", node=node) from None
    if check and done.returncode != 0:
        complaint = _complaint(redact(done.stderr.strip() or done.stdout.strip()))
        raise ServerError(
            f"{program.name} failed with exit code {done.returncode}: {complaint}",
            hint="the server's log may say more",
            node=node,
        )
    return done


def _complaint(said: str) -> str:
    """The line that says what went wrong: the first that calls itself an error, else the last."""
    lines = said.splitlines() or ["no word"]
    return next((line for line in lines if re.search(r"\b(error|fatal)\b", line, re.IGNORECASE)), lines[-1])
