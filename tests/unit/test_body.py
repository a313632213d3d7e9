"""Strict JSON, bounded before it is decoded."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.body import check_content_type, decode
from app.core.errors import InvalidJson, UnsupportedMediaType

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["\\", '"', '\\",[{'])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


def _count(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value
    inner = sum(map(_count, children)) if isinstance(value, dict | list) else 0
    return 1 + inner


def _containers(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    children = value.values() if isinstance(value, dict) else value
    return 1 + sum(map(_containers, children))


@settings(max_examples=40, deadline=None)
@given(VALUES, st.booleans())
def test_every_value_within_the_limit_is_decoded_as_it_was(value: Any, ascii_only: bool):
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert decode(body, _count(value) + _containers(value)) == value


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=20))
def test_more_values_than_the_limit_are_refused_whatever_the_strings_hold(values: list[Any]):
    too_few = len(values) - 1  # there are at least as many separators as entries
    with pytest.raises(InvalidJson, match=f"more than {too_few} values"):
        decode(json.dumps(values).encode(), too_few)


def test_separators_inside_a_string_do_not_count():
    text = '[{,\\"' * 1000
    assert decode(json.dumps({"text": text}).encode(), 5) == {"text": text}


def test_names_and_strings_count_as_one_value():
    with pytest.raises(InvalidJson, match="more than 10 values"):
        decode(json.dumps({str(number): "" for number in range(12)}).encode(), 10)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(body: bytes):
    try:
        decode(body, 5)
    except InvalidJson as refused:
        assert str(refused).startswith("The body ")


def test_refusal_tells_the_position():
    with pytest.raises(InvalidJson, match=r"byte 12"):
        decode(b'{"text": "a"; }', 100)


@pytest.mark.parametrize("value", ["text/json", "application/xml", "json", "application/json/x"])
def test_other_media_types_are_named_in_the_refusal(value: str):
    with pytest.raises(UnsupportedMediaType, match=value):
        check_content_type(value)
