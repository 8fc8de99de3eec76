"""Where the harness' logs go in a test run; done before its first logger is made, which would settle it otherwise."""

from __future__ import annotations

import logging

import structlog

from harness.errors import HarnessError
from harness.logs import to_stderr
from harness.settings import load_settings


def configure_logs() -> None:
    """Warnings, or what ``HARNESS_LOG_LEVEL`` says, to what stderr is when something is logged.

    pytest gives a test that captures a stderr of its own and closes it afterwards: a logger that kept the one of its
    making would write to a closed file. A project that configured structlog itself keeps its configuration.
    """
    if structlog.is_configured():
        return
    try:
        wanted = load_settings().log_level.upper()
    except HarnessError:  # told by whoever needs the setting
        wanted = ""
    structlog.configure(
        logger_factory=to_stderr,
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping().get(wanted, logging.WARNING)
        ),
        cache_logger_on_first_use=False,
    )
