"""Property tests draw the same examples every time: a red run is red again on the next machine.

And what unit tests share as fixtures.
"""

import pytest
import structlog
from hypothesis import settings

from app.core.config import Settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60, database=None)
settings.load_profile("ci")

# Plain tracebacks: the default ones, in colours and boxes, take most of a failing batch's time.
structlog.configure(
    processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()]
)


@pytest.fixture
def no_settings(monkeypatch, tmp_path):
    """An empty folder to start in, and no variable of the machine that runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
