"""What benchmarks of pytest share: how long they may take, and where results of ours are kept beside its own."""

from __future__ import annotations

import pytest

from harness.bench.model import Profile


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bench-profile",
        default=Profile.SMOKE.value,
        choices=[profile.value for profile in Profile],
        help="how long each group of harness bench may take (default: smoke)",
    )
