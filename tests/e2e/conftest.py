"""One server for all tests that only ask it something; those that stop theirs start their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import ServerProcess

HERE = Path(__file__).parent
Start = Callable[..., ServerProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first pays for the first start, downloads included."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("server"))
    try:
        server.until_ready()
        yield server
    finally:
        status = server.end()
    assert status == 0
    assert server.other_lines == [], "a line of the log is not JSON"


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Start]:
    started: list[ServerProcess] = []

    def start(**settings: object) -> ServerProcess:
        started.append(ServerProcess(tmp_path, **settings))
        return started[-1]

    yield start
    for server in started:
        server.end()
