"""Frames on a byte stream: four bytes of length, then the message. Nothing is unpickled, ever."""

import asyncio
import contextlib
import os
import struct
from collections.abc import Callable
from typing import cast

import structlog

log = structlog.get_logger()

MAX_FRAME_BYTES = 256 * 2**20
_LENGTH = struct.Struct(">I")


class BrokenStream(Exception):
    """The other side sent something that is no frame."""


class FrameReader:
    """Cuts a stream into frames, however the bytes arrive."""

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._max_frame_bytes = max_frame_bytes

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. Raises BrokenStream before a huge one is held."""
        self._buffer += data
        frames: list[bytes] = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > self._max_frame_bytes:
                raise BrokenStream(f"a frame of {length} bytes exceeds {self._max_frame_bytes}")
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[at + _LENGTH.size : end]))
            at = end
        del self._buffer[:at]
        return frames


class Wire(asyncio.Protocol):
    """One end of a connection: calls `on_frames` with what arrived, `on_closed` once at the end.

    `send` never blocks; messages sent in one turn of the loop leave in one write.
    """

    def __init__(
        self, on_frames: Callable[[list[bytes]], None], on_closed: Callable[[], None]
    ) -> None:
        self._on_frames = on_frames
        self._on_closed = on_closed
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except BrokenStream as error:
            log.error("stream_broken", error=str(error))
            self.close()
            return
        if frames:
            self._on_frames(frames)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed()

    def send(self, message: bytes) -> None:
        """Queue one frame; dropped silently when the connection has ended."""
        if self._transport is None:
            return
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(_LENGTH.pack(len(message)))
        self._outgoing.append(message)

    def send_at_once(self, message: bytes) -> None:
        """Hand a frame to the kernel before this returns: it arrives even if the process dies in
        the next moment. Where the other side is slow to read, it is only queued."""
        if self._transport is None:
            return
        self._outgoing.append(_LENGTH.pack(len(message)))
        self._outgoing.append(message)
        if self._transport.get_write_buffer_size():
            self._flush()
            return
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        with contextlib.suppress(OSError):  # full or closed: the transport will find out
            data = data[os.write(self._transport.get_extra_info("socket").fileno(), data) :]
        if data:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is queued and end the connection."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            self._transport.write(b"".join(self._outgoing))
        self._outgoing.clear()
