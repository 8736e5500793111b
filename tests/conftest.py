"""Options of the test suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The same examples in every run: a failure that comes and goes teaches nobody. Look for new ones with
# pytest --hypothesis-profile default.
settings.register_profile("suite", derandomize=True, database=None, deadline=None)
settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write what the program prints now into the expected files, to be read as a diff",
    )
    parser.addoption("--every-golden", action="store_true", help="compare the plans that take long as well")


@pytest.fixture
def every_golden(request: pytest.FixtureRequest) -> bool:
    """Whether expected files that take long to make are looked at as well."""
    return bool(request.config.getoption("--every-golden"))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Whether expected files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))
