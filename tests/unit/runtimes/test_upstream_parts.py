"""Events out of bytes, the meaning of refusals, and pauses between attempts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InputTooLong, InvalidRequest, ModelUnavailable, Overloaded
from app.core.upstream import UpstreamOptions
from app.runtimes.upstream import LONGEST_PAUSE_S, Upstream, pause_s
from app.runtimes.upstream_events import MOST_EVENT_BYTES, EndlessEvent, EventReader
from app.runtimes.upstream_refusals import KeyRefused, refusal_of

STREAM = (
    b": hello\n\nevent: x\ndata: one\n\ndata:two\r\nid: 3\r\n\r\n"
    b"data: three\ndata: lines\n\n\n\ndata: [DONE]\n\ndata: cut off"
)
EVENTS = [b"one", b"two", b"three\nlines", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_are_the_same_however_the_bytes_come(cuts):
    places = [0, *sorted(cuts), len(STREAM)]
    reader = EventReader()
    parts = [STREAM[a:b] for a, b in zip(places, places[1:], strict=False)]
    assert [event for part in parts for event in reader.feed(part)] == EVENTS


@pytest.mark.parametrize("part", [b"x" * 65536, b"data: " + b"x" * 65536 + b"\n"])
def test_an_event_without_an_end_is_refused(part):
    reader = EventReader()
    with pytest.raises(EndlessEvent):
        for _ in range(MOST_EVENT_BYTES // 65536 + 1):
            reader.feed(part)


SECRET = "sk-4711 at 10.0.0.5"


def said(**fields: object) -> bytes:
    return json.dumps(fields).encode()


REFUSALS = {
    "openai": (400, said(error={"message": SECRET, "param": "n"}), InvalidRequest, "sequences"),
    "old vllm": (400, said(message=SECRET, param="messages"), InvalidRequest, "inputs.messages"),
    "fastapi": (
        422,
        said(detail=[{"loc": ["body", "top_p"], "msg": SECRET}]),
        InvalidRequest,
        "parameters.top_p",
    ),
    "unknown field": (400, said(error={"param": SECRET}), InvalidRequest, "its log says why"),
    "a text": (400, said(error=SECRET), InvalidRequest, "its log says why"),
    "no JSON": (400, SECRET.encode(), InvalidRequest, "its log says why"),
    "a list": (400, b"[1]", InvalidRequest, "its log says why"),
    "nesting": (400, b"[" * 100_000, InvalidRequest, "its log says why"),
    "long, by code": (
        400,
        said(error={"code": "context_length_exceeded"}),
        InputTooLong,
        "longer than the model takes",
    ),
    "long, by words": (
        400,
        said(message=f"This model's maximum context length is 4096 {SECRET}", code=400),
        InputTooLong,
        "longer than the model takes",
    ),
    "too large": (413, b"", InputTooLong, "longer"),
    "key": (401, SECRET.encode(), KeyRefused, "refuses the key"),
    "forbidden": (403, b"", KeyRefused, "refuses the key"),
    "not there": (404, b"", ModelUnavailable, "does not know"),
    "busy": (429, b"", Overloaded, "no more requests"),
    "elsewhere": (307, b"", ModelUnavailable, "elsewhere"),
    "fault": (500, SECRET.encode(), ModelUnavailable, "failed"),
    "teapot": (418, b"", ModelUnavailable, "failed"),
}


@pytest.mark.parametrize(("status", "content", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_becomes_an_error_of_ours_in_our_words(status, content, kind, words):
    error = refusal_of(status, content)
    assert type(error) is kind and words in str(error) and "4711" not in str(error)


def test_pauses_double_up_to_a_bound_and_heed_what_was_asked_for():
    assert [pause_s(attempt, 0, 1) for attempt in range(3)] == [0.25, 0.5, 1.0]
    assert pause_s(0, 0, 0) == 0.125
    assert pause_s(30, 0, 1) == LONGEST_PAUSE_S
    assert pause_s(0, 7, 1) == 7


def test_a_key_is_in_no_description(monkeypatch):
    monkeypatch.setenv("FAR_KEY", "sk-4711")
    upstream = Upstream({}, base_url="http://h/v1", model="m", api_key_env="FAR_KEY")
    shown = f"{upstream!r} {upstream.options!r} {upstream._client.headers!r}"
    assert "4711" not in shown
    assert isinstance(upstream.options, UpstreamOptions)
