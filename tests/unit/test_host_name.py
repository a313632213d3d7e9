"""The name in a Host header."""

import pytest

from app.api.middleware import host_name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.example", "a.example"),
        ("A.Example:8000", "a.example"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:8000", "[::1]"),
        ("[::1]", "[::1]"),
        ("", ""),
    ],
)
def test_a_port_is_no_part_of_the_name(host, name):
    assert host_name(host) == name
