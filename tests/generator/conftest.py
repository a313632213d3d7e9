"""The embedded generator in the test's own process."""

import pytest

from app.core.config import load_settings
from app.models.catalog import load_catalog, profile_path
from app.models.progress import LogProgress
from app.models.store import ModelStore, fetch_all
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_paged import OpenVinoLlm


@pytest.fixture(scope="session")
def generator_file() -> str:
    """Fetched if it has to be."""
    spec = next(s for s in load_catalog(profile_path("embedded")) if s.name == "generator")
    (path,) = fetch_all([spec], ModelStore(load_settings().model_store, LogProgress())).values()
    return str(path)


@pytest.fixture(scope="session")
def runtime(generator_file: str) -> OpenVinoLlm:
    """Reading the file takes seconds, so the tests share it."""
    return OpenVinoLlm({"model": generator_file}, plan=StreamPlan(1, 2), max_tokens=2048)
