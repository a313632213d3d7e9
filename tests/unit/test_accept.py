"""Who gets metrics as JSON."""

import pytest

from app.api.metrics import wants_json


@pytest.mark.parametrize(
    ("accept", "is_json"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/*", False),
        ("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", False),
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/html, application/json;q=0.9", True),
        ("application/json;q=0", False),
        ("application/json;q=0.0", False),
    ],
)
def test_json_is_for_those_who_name_it(accept: str, is_json: bool):
    assert wants_json(accept) is is_json
