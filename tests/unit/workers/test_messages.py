"""What crosses between server and worker arrives as it left, and nothing else is taken."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.types import Piece
from app.workers.messages import (
    AskThreads,
    BatchRan,
    Beat,
    Cancel,
    Ended,
    GrantThreads,
    HostedVersion,
    ItemDone,
    ItemFailed,
    Load,
    Loaded,
    LoadFailed,
    Pieces,
    RecallThreads,
    Results,
    ReturnThreads,
    Started,
    Stop,
    Submit,
    Used,
    WireItem,
    decode_to_server,
    decode_to_worker,
    encode,
    pack_inputs,
    unpack_inputs,
)

TO_WORKER = [
    Load(
        artefact="minilm",
        files={"model": "/store/model.onnx"},
        runtime="openvino_encoder",
        kind="vectors",
        options={"max_tokens": 256},
        versions=[HostedVersion("sentiment:v1", "classify", {"labels": ["a"]}, {"head": "/h"})],
        cpu_threads=2,
        max_batch_size=8,
        batch_timeout_ms=100.0,
        calibration_path="/store/calibration/1.json",
        prepared_path="/store/prepared/1",
        log_format="json",
        log_level="info",
        memory_limit_bytes=2**30,
        nice=10,
    ),
    Submit(
        [WireItem(1, "sentiment:v1", "na\u00efve \U0001f600", {"stop": ["a"], "n": 2**53}, 1.5)]
    ),
    Submit([WireItem(2, "iris:v1", "", {}, 1.5, "id", pack_inputs({"x": [[1, 2.5], [True]]}))]),
    Cancel([1, 2]),
    GrantThreads(2),
    RecallThreads(),
    Stop(),
]
TO_SERVER = [
    Loaded(1.5, None, {}, {}, {"inputs": [{"name": "x"}], "outputs": []}),
    Loaded(1.5, 256, {"streams": 2}, {"broken:v1": "its head is missing"}),
    LoadFailed("cannot_load", "no such file"),
    Results(
        [
            ItemDone(1, ["text", 0.5], {"confidence": 0.9, "seed": None}, 3, 4, 0.25, 7.5),
            ItemFailed(2, "input_too_long", "text has 300 tokens"),
        ]
    ),
    Pieces([(1, Piece("a", 2, finish_reason="stop"))], [Used(1, 7, 2), Used(2, 2**53, 0)]),
    AskThreads(1),
    ReturnThreads(1),
    Started(7, [1, 2], 12.5),
    Ended(7),
    Beat([BatchRan(8, 100, 120, 3.5, 3.25)], waiting=3, running=2, resident_bytes=10**9),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("message", TO_WORKER, ids=lambda m: type(m).__name__)
def test_the_worker_reads_what_the_server_wrote(message):
    assert decode_to_worker(encode(message)) == message


@pytest.mark.parametrize("message", TO_SERVER, ids=lambda m: type(m).__name__)
def test_the_server_reads_what_the_worker_wrote(message):
    assert decode_to_server(encode(message)) == message


@given(st.text(), st.dictionaries(st.text(), JSON, max_size=3), JSON)
def test_texts_parameters_and_answers_cross_unchanged(text, parameters, value):
    submit = Submit([WireItem(1, "m:v1", text, parameters, 1.0)])
    results = Results([ItemDone(1, value, parameters, 0, 0, 0.0, 0.0)])

    assert decode_to_worker(encode(submit)) == submit
    assert decode_to_server(encode(results)) == results


@pytest.mark.parametrize("message", TO_SERVER, ids=lambda m: type(m).__name__)
def test_a_message_in_the_wrong_direction_is_refused(message):
    with pytest.raises(msgspec.DecodeError):
        decode_to_worker(encode(message))


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xc1", b"\x80", encode(Stop())[:-1], msgspec.msgpack.encode({"type": "Cancel"})],
    ids=["nothing", "no msgpack", "no tag", "cut short", "a field is missing"],
)
def test_what_is_no_message_of_ours_is_refused(garbage):
    with pytest.raises(msgspec.DecodeError):
        decode_to_worker(garbage)


@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_tensors_cross_unchanged(inputs):
    assert unpack_inputs(pack_inputs(inputs)) == inputs


def test_an_integer_that_no_message_can_hold_is_the_callers():
    with pytest.raises(InvalidRequest, match="integer beyond 64 bits"):
        pack_inputs({"x": [2**64]})


def test_lists_nested_too_deeply_are_the_callers():
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]

    with pytest.raises(InvalidRequest, match="nested too deeply"):
        pack_inputs({"x": nested})
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        unpack_inputs(b"\x81\xa1x" + b"\x91" * 100_000 + b"\x01")
