"""What connections may take together, and how long something may drip."""

import json
import resource
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.limits import (
    LEAST_BYTES_PER_S,
    MAX_REFUSED_CONNECTIONS,
    Limits,
    Occupancy,
    Pace,
    Refused,
    client_of,
    overloaded,
    refusal_bytes,
    too_slow,
)
from app.api.server import allow_descriptors
from app.core.errors import ConfigurationError


def limits(**changes: Any) -> Limits:
    plain: dict[str, Any] = {
        "max_header_bytes": 1024,
        "max_held_body_bytes": 100,
        "header_timeout_s": 5.0,
        "body_timeout_s": 10.0,
        "answer_timeout_s": 30.0,
        "keep_alive_s": 30.0,
        "max_connections": 3,
        "max_connections_per_client": 0,
    }
    return Limits(**plain | changes)


def test_places_are_taken_and_given_back():
    counts: list[int] = []
    occupancy = Occupancy(limits(max_connections=2, on_connections=counts.append))
    assert [occupancy.enter("a"), occupancy.enter("b")] == [None, None]
    refused = occupancy.enter("c")
    assert refused is not None and "MAX_CONNECTIONS)" in str(refused)
    occupancy.leave("a")
    assert occupancy.enter("c") is None
    assert counts == [1, 2, 1, 2]


def test_one_client_cannot_take_the_places_of_others():
    occupancy = Occupancy(limits(max_connections_per_client=1))
    assert occupancy.enter("a") is None
    refused = occupancy.enter("a")
    assert refused is not None and "MAX_CONNECTIONS_PER_CLIENT" in str(refused)
    assert occupancy.enter("b") is None
    occupancy.leave("a")
    assert occupancy.enter("a") is None


def test_who_is_refused_takes_no_place():
    occupancy = Occupancy(limits(max_connections=1))
    assert occupancy.enter("a") is None
    for _ in range(5):
        assert occupancy.enter("b") is not None
    occupancy.leave("a")
    assert occupancy.served == 0 and occupancy.enter("b") is None


def test_refusals_are_counted_each_and_told_together():
    codes: list[str] = []
    occupancy = Occupancy(limits(on_refused=codes.append))
    for _ in range(3):
        occupancy.note_refused()
    assert codes == ["too_many_connections"] * 3
    assert [occupancy.take_refused(), occupancy.take_refused()] == [3, 0]


def test_bodies_are_held_up_to_a_sum():
    occupancy = Occupancy(limits())
    occupancy.hold(60)
    occupancy.hold(40)
    with pytest.raises(Refused, match="MAX_HELD_BODY_BYTES"):
        occupancy.hold(1)
    occupancy.release(60)
    occupancy.hold(60)
    assert occupancy.body_bytes == 100


@pytest.mark.parametrize(
    ("one", "other", "are_the_same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_a_host_is_told_by_its_address_or_its_network(one: str, other: str, are_the_same: bool):
    assert (client_of(one) == client_of(other)) is are_the_same


def test_pause_is_too_long_whatever_came_before():
    pace = Pace(10)
    pace.begin(0)
    pace.moved(1, 10**9)
    assert not pace.is_lost(11)
    assert pace.is_lost(11.1)


def test_drip_below_the_least_rate_is_lost_after_the_patience():
    pace = Pace(10)
    pace.begin(0)
    seconds = 0
    while not pace.is_lost(seconds):
        seconds += 1
        pace.moved(seconds, LEAST_BYTES_PER_S // 100)
    assert seconds == 11


@given(st.lists(st.integers(LEAST_BYTES_PER_S, 10**6), max_size=50))
def test_whoever_keeps_the_least_rate_is_never_lost(counts: list[int]):
    pace = Pace(1.5)
    pace.begin(0)
    for second, count in enumerate(counts, 1):
        pace.moved(second, count)
        assert not pace.is_lost(second)


def test_refusal_that_passes_says_when_to_come_back():
    occupancy = Occupancy(limits(max_connections=1))
    occupancy.enter("a")
    refused = occupancy.enter("a")
    assert refused is not None and refused.status is HTTPStatus.SERVICE_UNAVAILABLE
    head, _, body = refusal_bytes(refused).partition(b"\r\n\r\n")
    assert b"\r\nretry-after: 1" in head and b"\r\nconnection: close" in head
    assert json.loads(body)["error"]["retry_after_s"] == 1


def test_refusal_that_is_the_callers_own_does_not():
    head, _, body = refusal_bytes(too_slow("header", 5)).partition(b"\r\n\r\n")
    assert b"retry-after" not in head
    assert json.loads(body)["error"].keys() == {"code", "message"}
    assert "HEADER_TIMEOUT_S is 5" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize(
    ("url", "has_own_shape"),
    [(b"", True), (b"/v1", False), (b"/v1?a=1", False), (b"/v10/x", True), (b"/v2/health", False)],
)
def test_shape_of_a_refusal_follows_from_its_path(url: bytes, has_own_shape: bool):
    answer = refusal_bytes(overloaded("later"), url)
    assert ("success" in json.loads(answer.partition(b"\r\n\r\n")[2])) == has_own_shape


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The process's limit on open files, last one counts."""
    now = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: now[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: now.append(pair))
    return now


def test_files_are_allowed_for_every_connection(files: list[tuple[int, int]]):
    allow_descriptors(100)
    assert files == [(1024, 4096)]
    allow_descriptors(1000)
    assert files[-1] == (1000 + MAX_REFUSED_CONNECTIONS + 256, 4096)


def test_more_connections_than_files_are_a_mistake_of_the_configuration(
    files: list[tuple[int, int]],
):
    with pytest.raises(ConfigurationError, match="MAX_CONNECTIONS is 5000.* 4096"):
        allow_descriptors(5000)
    assert files == [(1024, 4096)]
