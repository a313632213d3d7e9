"""What pytest-xdist's own process has to know: it reads no other conftest."""

from typing import Any

import pytest

from tests.hub.needs import MISSING


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.spreading import Groups  # only where pytest-xdist is installed

    return Groups(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if MISSING:
        terminalreporter.write_line(
            f"tests/hub left out: {', '.join(MISSING)} not installed (make test-hub installs them)"
        )
