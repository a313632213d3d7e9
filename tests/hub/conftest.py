"""Tests that need torch, transformers and the exporters; without them the folder is left out."""

from pathlib import Path

import pytest

from tests.hub.needs import MISSING

TIMEOUT_S = 300  # the exporters take five seconds to import, and the machine may be busy
NOISE = (
    # What the libraries say to each other's developers, not to us.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::torch.jit.TracerWarning",
    "ignore:.*TracerWarning.*",
)

collect_ignore_glob = ["*.py"] if MISSING else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S), append=False)
            for pattern in NOISE:
                item.add_marker(pytest.mark.filterwarnings(pattern))
