"""Structured logs on stderr; passwords never appear in them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from harness.errors import BadInputError
from harness.settings import load_settings

# A password in a URI (user:secret@), in a keyword DSN (password=secret), or in SQL (PASSWORD 'secret').
_SECRETS = (
    (re.compile(r"(://[^:/@\s]*:)[^@\s]*(@)"), r"\1***\2"),
    (re.compile(r"(\bpassword\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]+)", re.IGNORECASE), r"\1***"),
    (re.compile(r"(\bPASSWORD\s+)(E?'(?:[^']|'')*')", re.IGNORECASE), r"\1'***'"),
)


def redact(text: str) -> str:
    """The same text without the passwords of DSNs, URIs and ``PASSWORD '...'`` clauses."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}


def to_stderr(*_arguments: Any) -> structlog.PrintLogger:
    """What stderr is when something is logged: whoever replaces it for a while, as tests do, may close theirs."""
    return structlog.PrintLogger(sys.stderr)


def configure_logging() -> None:
    """Send logs to stderr at ``HARNESS_LOG_LEVEL``, as lines or (``HARNESS_LOG_JSON``) as JSON.

    Raises:
        BadInputError: the level is none of debug, info, warning, error.
    """
    settings = load_settings()
    levels = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
    level = levels.get(settings.log_level.lower())
    if level is None:
        raise BadInputError(
            f"HARNESS_LOG_LEVEL={settings.log_level!r} is not a level", hint="use debug, info, warning or error"
        )
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _redact_event,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=to_stderr,
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that says which room of the house speaks; on stderr even where nobody configured logging."""
    if not structlog.is_configured():
        # Used as a library: structlog's own default is stdout, which belongs to whoever called.
        structlog.configure(logger_factory=to_stderr)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(room=name)
    return logger
