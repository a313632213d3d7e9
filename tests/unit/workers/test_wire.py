"""Frames on a byte stream, however the bytes arrive."""

import asyncio
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.workers.wire import MAX_FRAME_BYTES, BrokenStream, FrameReader, Wire


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)


class Recorder(asyncio.Transport):
    """A transport that keeps what is written, one entry per write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False
        self.buffered = 0  # bytes that the other side has not taken yet
        self.kernel: IO[bytes] | None = None

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def get_extra_info(self, name, default=None):
        return self.kernel if name == "socket" else default

    def write(self, data) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True


class End:
    """One end of a connection over a Recorder."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.ended = 0
        self.wire = Wire(self.frames.extend, self._on_closed)
        self.transport = Recorder()

    def _on_closed(self) -> None:
        self.ended += 1

    def connect(self) -> "End":
        self.wire.connection_made(self.transport)
        return self


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_any_split_of_the_stream_gives_the_same_frames(messages, data):
    stream = framed(*messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, frames = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += reader.feed(stream[start:end])

    assert frames == messages


def test_a_frame_is_given_out_with_its_last_byte_and_not_before():
    reader = FrameReader()
    *early, last = [bytes([byte]) for byte in framed(b"hello")]

    assert all(reader.feed(byte) == [] for byte in early)
    assert reader.feed(last) == [b"hello"]


def test_a_frame_beyond_the_limit_is_refused_on_its_length_before_any_of_it_is_held():
    with pytest.raises(BrokenStream, match="1025 bytes exceeds 1024"):
        FrameReader(max_frame_bytes=1024).feed((1025).to_bytes(4, "big"))


def test_a_frame_at_the_limit_is_taken():
    assert FrameReader(max_frame_bytes=1024).feed(framed(b"x" * 1024)) == [b"x" * 1024]


def test_a_connection_that_announces_a_huge_frame_is_closed_and_hands_out_nothing():
    end = End().connect()
    end.wire.data_received((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))

    assert end.transport.closed
    assert end.frames == []


async def test_messages_of_one_turn_leave_in_one_write_in_order():
    end = End().connect()
    end.wire.send(b"one")
    end.wire.send(b"")
    end.wire.send(b"three")
    assert end.transport.written == []
    await asyncio.sleep(0)

    assert end.transport.written == [framed(b"one", b"", b"three")]
    end.wire.send(b"later")
    await asyncio.sleep(0)
    assert end.transport.written[1:] == [framed(b"later")]


async def test_closing_sends_what_is_queued_first():
    end = End().connect()
    end.wire.send(b"last words")
    end.wire.close()

    assert end.transport.written == [framed(b"last words")]
    assert end.transport.closed
    await asyncio.sleep(0)
    assert len(end.transport.written) == 1


async def test_what_is_sent_without_a_connection_is_dropped():
    end = End()
    end.wire.send(b"too early")
    end.connect()
    end.wire.connection_lost(None)
    end.wire.send(b"too late")
    await asyncio.sleep(0)

    assert end.transport.written == []
    assert end.ended == 1


async def test_a_message_queued_when_the_connection_is_lost_is_dropped():
    end = End().connect()
    end.wire.send(b"on its way")
    end.wire.connection_lost(None)
    await asyncio.sleep(0)

    assert end.transport.written == []


@pytest.mark.parametrize("queued", [[], [b"before"]], ids=["nothing queued", "after another"])
async def test_what_is_sent_at_once_has_left_when_the_call_returns(tmp_path, queued):
    end = End().connect()
    with (tmp_path / "kernel").open("wb") as end.transport.kernel:
        for message in queued:
            end.wire.send(message)
        end.wire.send_at_once(b"now")
        assert (tmp_path / "kernel").read_bytes() == framed(*queued, b"now")
    await asyncio.sleep(0)

    assert end.transport.written == []


async def test_what_is_sent_at_once_keeps_its_place_behind_what_the_other_side_has_not_taken():
    end = End().connect()
    end.transport.buffered = 10
    end.wire.send(b"before")
    end.wire.send_at_once(b"now")

    assert end.transport.written == [framed(b"before", b"now")]


async def test_what_the_kernel_does_not_take_at_once_is_left_to_the_transport(tmp_path):
    end = End().connect()
    path = tmp_path / "kernel"
    path.touch()
    with path.open("rb") as end.transport.kernel:  # writing fails
        end.wire.send_at_once(b"now")

    assert end.transport.written == [framed(b"now")]


async def test_nothing_is_sent_at_once_without_a_connection():
    end = End()
    end.wire.send_at_once(b"too early")

    assert end.transport.written == []
